"""The Django app of schedules."""

from __future__ import annotations

from importlib import import_module

from django.apps import AppConfig

from async_cache import rota
from async_cache.management.subcommands import register_subcommand
from async_cache.schedules import warming
from async_cache.schedules.conf import SECTION

__all__ = ["SchedulesConfig"]


class SchedulesConfig(AppConfig):
    """Configuration of ``async_cache.schedules``; put it in ``INSTALLED_APPS`` after the core."""

    name = "async_cache.schedules"
    label = "async_cache_schedules"
    verbose_name = "Schedules"

    def ready(self) -> None:
        """Register the settings and subcommands; warm what jobs ask to be kept warm."""
        SECTION.register()
        import_module("async_cache.schedules.checks").register()
        rota.watch(warming.start)
        management = import_module("async_cache.schedules.management.subcommands")
        for subcommand in management.SUBCOMMANDS:
            register_subcommand(subcommand)
