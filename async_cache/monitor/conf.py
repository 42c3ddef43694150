"""``ASYNC_CACHE["MONITOR"]``, typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from async_cache import validators
from async_cache.sections import Section
from async_cache.validators import Validator

__all__ = ["SECTION", "MonitorSettings", "get_monitor_settings"]


@dataclass(frozen=True, slots=True)
class MonitorSettings:
    """The section with its defaults applied. Durations are seconds.

    Attributes:
        cache: Alias of ``CACHES`` that holds the statistics; None is the one of the entries.
        flush: How often a process adds its counts to the shared ones.
        expires: How long the counts of a process that has ended are kept.
        processes: Most processes that share their counts at a time.
        keep_succeeded: How long the camera keeps tasks that succeeded; None keeps them.
        keep_failed: How long it keeps tasks that failed, were revoked or are to be tried again.
        keep_pending: How long it keeps tasks of which no end was heard.
    """

    cache: str | None = None
    flush: float = 10.0
    expires: float = 86_400.0
    processes: int = 256
    keep_succeeded: float | None = 86_400.0
    keep_failed: float | None = 3 * 86_400.0
    keep_pending: float | None = 5 * 86_400.0


_seconds: Final = validators.duration(positive=True)

_KEYS: Final[Mapping[str, Validator]] = MappingProxyType(
    {
        "CACHE": validators.text("an alias of CACHES", none=True),
        "FLUSH": _seconds,
        "EXPIRES": _seconds,
        "PROCESSES": validators.integer(minimum=1),
        "KEEP_SUCCEEDED": validators.duration(none=True, positive=True),
        "KEEP_FAILED": validators.duration(none=True, positive=True),
        "KEEP_PENDING": validators.duration(none=True, positive=True),
    }
)

SECTION: Final = Section("MONITOR", MonitorSettings, _KEYS, '{"FLUSH": 10}')


def get_monitor_settings() -> MonitorSettings:
    """Return the section in force.

    Raises:
        ConfigurationError: A key is unknown or a value is bad.
    """
    return SECTION.get()
