"""Checks of the ``ASYNC_CACHE`` setting itself: keys, values, options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from django.apps import AppConfig, apps
from django.core import checks

from async_cache.conf import (
    KNOWN_SECTIONS,
    SETTING,
    Settings,
    current_or_partial,
    find_problems,
    registered_sections,
)

__all__ = ["check_sections", "check_setting"]

_IDS: Final = {"type": "E001", "unknown_key": "E002", "value": "E003", "unknown_option": "E004"}


def check_setting(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """Name every unknown key, unknown option and bad value."""
    found: list[checks.CheckMessage] = [
        checks.Error(
            f"{problem.where}: {problem.message}.",
            hint=problem.hint,
            id=f"async_cache.{_IDS[problem.kind]}",
        )
        for problem in find_problems()
    ]
    settings = current_or_partial()
    found += _check_lifetimes(settings)
    return found


def _check_lifetimes(settings: Settings) -> list[checks.CheckMessage]:
    found: list[checks.CheckMessage] = []
    places = [(f'{SETTING}["DEFAULTS"]', settings.defaults)]
    places += [(f'{SETTING}["JOBS"]["{name}"]', jobs) for name, jobs in settings.jobs.items()]
    for where, given in places:
        options = {**settings.defaults, **given}
        lifetime = (options["ttl"] or 0.0) + options["grace"]
        if lifetime > settings.max_lifetime and ("ttl" in given or "grace" in given):
            found.append(
                checks.Warning(
                    f"{where}: ttl + grace are {lifetime:g} s; entries live at most "
                    f"MAX_LIFETIME, {settings.max_lifetime:g} s.",
                    hint=f'Lower `grace`, or raise {SETTING}["MAX_LIFETIME"].',
                    id="async_cache.W011",
                )
            )
    return found


def check_sections(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """Name the sections that no installed app reads."""
    unread = set(current_or_partial().sections) - registered_sections()
    return [
        checks.Warning(
            f'{SETTING}["{name}"] has no effect: no installed app reads it.',
            hint=f'Add "{KNOWN_SECTIONS[name]}" to INSTALLED_APPS, or remove the section.',
            id="async_cache.W010",
        )
        for name in sorted(unread)
        if name in KNOWN_SECTIONS and not apps.is_installed(KNOWN_SECTIONS[name])
    ]
