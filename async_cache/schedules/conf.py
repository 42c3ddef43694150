"""``ASYNC_CACHE["SCHEDULES"]``, typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from async_cache import validators
from async_cache.sections import Section
from async_cache.validators import Validator

__all__ = ["SECTION", "SchedulesSettings", "get_schedules_settings"]


@dataclass(frozen=True, slots=True)
class SchedulesSettings:
    """The section with its defaults applied.

    Attributes:
        spread: The part of the time between two ticks over which the calls of one tick are spread,
            0 to below 1.
        max_spread: Longest such time, in seconds.
        queue: The queue of the ticks; None is the default queue.
    """

    spread: float = 0.1
    max_spread: float = 60.0
    queue: str | None = None


_KEYS: Final[Mapping[str, Validator]] = MappingProxyType(
    {
        "SPREAD": validators.number(minimum=0, below=1),
        "MAX_SPREAD": validators.duration(),
        "QUEUE": validators.text("the name of a queue", none=True),
    }
)

SECTION: Final = Section("SCHEDULES", SchedulesSettings, _KEYS, '{"SPREAD": 0.1}')


def get_schedules_settings() -> SchedulesSettings:
    """Return the section in force.

    Raises:
        ConfigurationError: A key is unknown or a value is bad.
    """
    return SECTION.get()
