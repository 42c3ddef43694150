"""What ``manage.py check`` says about the monitor.

====  =============================================================================================
Id    Meaning
====  =============================================================================================
E001  ``ASYNC_CACHE["MONITOR"]`` has the wrong type, an unknown key or a bad value
E002  the cache of the statistics is not in ``CACHES``
W001  the cache of the statistics has a ``KEY_FUNCTION``: they may be several
====  =============================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from django.apps import AppConfig
from django.conf import settings as django_settings
from django.core import checks

from async_cache.conf import SETTING, current_or_partial
from async_cache.monitor.conf import SECTION
from async_cache.validators import suggest

__all__ = ["check_section", "register"]

_TAG: Final = "async_cache"


def register() -> None:
    """Register the checks; registering twice is the same as once."""
    checks.register(check_section, _TAG)


def check_section(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """Name every unknown key and bad value of the section."""
    found: list[checks.CheckMessage] = [
        checks.Error(
            f"{problem.where}: {problem.message}.", hint=problem.hint, id="async_cache_monitor.E001"
        )
        for problem in SECTION.find_problems()
    ]
    alias = SECTION.current_or_partial().cache
    if alias is not None and alias not in django_settings.CACHES:
        where = f'{SETTING}["{SECTION.name}"]["CACHE"]'
        found.append(
            checks.Error(
                f'{where} is "{alias}", which is not in CACHES.',
                hint=suggest(alias, django_settings.CACHES),
                id="async_cache_monitor.E002",
            )
        )
    used = alias or current_or_partial().cache
    if django_settings.CACHES.get(used, {}).get("KEY_FUNCTION"):
        found.append(
            checks.Warning(
                f'The statistics are in CACHES["{used}"], which has a KEY_FUNCTION. Where its keys '
                "depend on who asks, each tenant sees only what was counted under its own.",
                hint=f'Set {SETTING}["{SECTION.name}"]["CACHE"] to a cache without one.',
                id="async_cache_monitor.W001",
            )
        )
    return found
