"""What ``manage.py check`` says about schedules.

====  =============================================================================================
Id    Meaning
====  =============================================================================================
E001  ``ASYNC_CACHE["SCHEDULES"]`` has the wrong type, an unknown key or a bad value
E002  a job declares a schedule that cannot be
W001  a job has ``keep_warm`` on a cache with a ``KEY_FUNCTION``: nothing is kept warm
====  =============================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from django.apps import AppConfig
from django.conf import settings as django_settings
from django.core import checks

from async_cache.conf import current_or_partial, find_problems
from async_cache.exceptions import AsyncCacheError
from async_cache.jobs.registry import all_jobs
from async_cache.resolution import configured
from async_cache.schedules.conf import SECTION

__all__ = ["check_schedules", "check_section", "check_warm", "register"]

_TAG: Final = "async_cache"


def register() -> None:
    """Register the checks; registering twice is the same as once."""
    for check in (check_section, check_schedules, check_warm):
        checks.register(check, _TAG)


def check_section(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """Name every unknown key and bad value of the section."""
    return [
        checks.Error(
            f"{problem.where}: {problem.message}.",
            hint=problem.hint,
            id="async_cache_schedules.E001",
        )
        for problem in SECTION.find_problems()
    ]


def check_schedules(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """Name the jobs whose schedules cannot be; their calls are not asked for."""
    # Here, since it imports Celery, and this module is imported at each start.
    from async_cache.schedules.plans import plan_of

    if find_problems():
        return []  # no job can be made; the settings' own errors come first
    found: list[checks.CheckMessage] = []
    for name in sorted(all_jobs()):
        try:
            plan_of(name)
        except AsyncCacheError as error:
            hint = "Correct the job. `manage.py async_cache schedule` shows all schedules."
            found.append(checks.Error(str(error), hint=hint, id="async_cache_schedules.E002"))
    return found


def check_warm(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """Name the jobs whose calls cannot be remembered: their keys depend on who asks."""
    if find_problems():
        return []
    settings = current_or_partial()
    found: list[checks.CheckMessage] = []
    for name, job in sorted(all_jobs().items()):
        given = {**_own(job), **configured(name)}
        alias = given.get("cache") or settings.defaults["cache"] or settings.cache
        if given.get("keep_warm") and django_settings.CACHES.get(alias, {}).get("KEY_FUNCTION"):
            message = (
                f'{name} has keep_warm, and CACHES["{alias}"] a KEY_FUNCTION, whose keys may '
                "depend on who asks: its calls are not remembered, and nothing is kept warm."
            )
            hint = "Use refresh_every with refresh_calls, or a cache without KEY_FUNCTION."
            found.append(checks.Warning(message, hint=hint, id="async_cache_schedules.W001"))
    return found


def _own(job: type) -> dict[str, Any]:
    return {name: getattr(job, name, None) for name in ("cache", "keep_warm")}
