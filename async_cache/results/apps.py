"""The Django app of results."""

from __future__ import annotations

from importlib import import_module

from django.apps import AppConfig

from async_cache.management.subcommands import register_subcommand
from async_cache.results import checks, listeners
from async_cache.results.conf import SECTION

__all__ = ["ResultsConfig"]


class ResultsConfig(AppConfig):
    """Configuration of ``async_cache.results``; put it in ``INSTALLED_APPS`` after the core."""

    name = "async_cache.results"
    label = "async_cache_results"
    verbose_name = "Results"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the settings, checks and subcommands; let refreshes leave records."""
        SECTION.register()
        checks.register()
        listeners.connect()
        # Not before: they import the models. The first is one, a proxy.
        import_module("async_cache.results.proxies")
        management = import_module("async_cache.results.management.subcommands")
        for subcommand in management.SUBCOMMANDS:
            register_subcommand(subcommand)
