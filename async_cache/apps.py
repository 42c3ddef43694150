"""The Django app: registers the checks, lets logging listen, finds the project's jobs."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules

from async_cache import checks, listeners

__all__ = ["AsyncCacheConfig"]


class AsyncCacheConfig(AppConfig):
    """Configuration of ``async_cache``; put ``"async_cache"`` in ``INSTALLED_APPS``."""

    name = "async_cache"
    verbose_name = "Asynchronous cache"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register checks and listeners, then import the ``jobs`` module of every installed app."""
        listeners.connect()
        checks.register()
        autodiscover_modules("jobs")
