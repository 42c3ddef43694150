"""The URLs of the status views, with the names that django-celery-results gives them."""

from __future__ import annotations

from django.urls import path

from async_cache.results import views

__all__ = ["urlpatterns"]

# Those that begin with the noun come last: they are what `reverse` finds.
urlpatterns = [
    path("<str:task_id>/done/", views.is_task_successful, name="celery-is_task_successful"),
    path("<str:task_id>/status/", views.task_status, name="celery-task_status"),
    path(
        "<str:group_id>/group/done/",
        views.is_group_successful,
        name="celery-is_group_successful",
    ),
    path("<str:group_id>/group/status/", views.group_status, name="celery-group_status"),
    path("task/done/<str:task_id>/", views.is_task_successful, name="celery-is_task_successful"),
    path("task/status/<str:task_id>/", views.task_status, name="celery-task_status"),
    path(
        "group/done/<str:group_id>/",
        views.is_group_successful,
        name="celery-is_group_successful",
    ),
    path("group/status/<str:group_id>/", views.group_status, name="celery-group_status"),
]
