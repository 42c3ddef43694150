"""The Django app of the monitor."""

from __future__ import annotations

from importlib import import_module

from django.apps import AppConfig

from async_cache import tallies
from async_cache.management.subcommands import register_subcommand
from async_cache.monitor import checks, counting, sharing
from async_cache.monitor.conf import SECTION

__all__ = ["MonitorConfig"]


class MonitorConfig(AppConfig):
    """Configuration of ``async_cache.monitor``; put it in ``INSTALLED_APPS`` after the core."""

    name = "async_cache.monitor"
    label = "async_cache_monitor"
    verbose_name = "Monitor"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the settings, checks and subcommands; count what the core announces."""
        SECTION.register()
        checks.register()
        counting.connect()
        tallies.watch(sharing.start)
        sharing.flush_at_end()
        management = import_module("async_cache.monitor.management.subcommands")
        for subcommand in management.SUBCOMMANDS:
            register_subcommand(subcommand)
