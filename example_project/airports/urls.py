"""Addresses of the pages, and of what their script asks."""

from django.urls import path

from . import group_views, statistics_views, views, warm_views

app_name = "airports"
urlpatterns = [
    path("", views.home, name="home"),
    path("weather/<str:code>/", views.weather, name="weather"),
    path("countries/", views.countries, name="countries"),
    path("countries/<str:code>/", views.country, name="country"),
    path("airports/<str:code>/", views.airport, name="airport"),
    path("board/", views.board, name="board"),
    path("report/", views.report, name="report"),
    path("warm/", warm_views.warm, name="warm"),
    path("warm.json", warm_views.warm_json, name="warm_json"),
    path("live/", views.live, name="live"),
    path("live.json", views.live_json, name="live_json"),
    path("statistics/", statistics_views.statistics, name="statistics"),
    path("groups/", group_views.group, name="groups"),
    path("groups/start/", group_views.start, name="start"),
    path("groups/<str:group>/<int:size>/", group_views.group, name="group"),
    path("groups/<str:group>/<int:size>.json", group_views.group_json, name="group_json"),
    path("groups/<str:group>/<int:size>/summary/", group_views.summary, name="summary"),
    path("groups/<str:group>/delete/", group_views.delete, name="delete_group"),
    path("read/<str:kind>/<str:argument>/", views.read_json, name="read"),
    path("state/<str:kind>/<str:argument>/", views.state_json, name="state"),
    path("act/<str:verb>/<str:kind>/<str:argument>/", views.act, name="act"),
    path("upstream/", views.upstream, name="upstream"),
    path("health/", views.health, name="health"),
]
