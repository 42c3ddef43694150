"""Addresses of the example project."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("", include("airports.urls")),
    path("results/", include("async_cache.results.urls")),  # states and values as JSON
    path("admin/", admin.site.urls),
]
