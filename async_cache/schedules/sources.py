"""Where schedules are kept besides the jobs: the database, where its app is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery.schedules import BaseSchedule

__all__ = ["find_schedule", "look_in"]

_finder: Callable[[str], BaseSchedule | None] | None = None


def look_in(finder: Callable[[str], BaseSchedule | None]) -> None:
    """Have a function asked for the schedule of an entry of beat, by the entry's name."""
    global _finder
    _finder = finder


def find_schedule(entry: str | None) -> BaseSchedule | None:
    """Return the schedule by which an entry of beat is ticked now; None: as the job declares."""
    return None if _finder is None or entry is None else _finder(entry)
