"""The Django app of schedules in the database."""

from __future__ import annotations

from importlib import import_module, util

from django.apps import AppConfig, apps

from async_cache.exceptions import ConfigurationError
from async_cache.schedules import sources

__all__ = ["DatabaseConfig"]


class DatabaseConfig(AppConfig):
    """Configuration of ``async_cache.schedules.database``, after django-celery-beat's app."""

    name = "async_cache.schedules.database"
    label = "async_cache_schedules_database"
    verbose_name = "Schedules in the database"

    def import_models(self) -> None:
        """Load the proxies.

        Raises:
            ConfigurationError: django-celery-beat is missing, or is not in ``INSTALLED_APPS``.
        """
        # The registry is not ready yet; which apps there are is known.
        installed = any(one.name == "django_celery_beat" for one in apps.app_configs.values())
        if not installed or util.find_spec("django_celery_beat") is None:
            raise ConfigurationError(
                f"{self.name} needs django-celery-beat. Run `pip install "
                '"django-async-cache[schedules]"`, and put "django_celery_beat" and '
                '"async_cache.schedules" before it in INSTALLED_APPS.'
            )
        super().import_models()

    def ready(self) -> None:
        """Tell beat of changes, and let a tick know the schedule of its row."""
        import_module("async_cache.schedules.database.changes").connect()
        rows = import_module("async_cache.schedules.database.rows")
        sources.look_in(rows.find_schedule, rows.list_ticks)
