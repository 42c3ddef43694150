"""Where schedules are kept besides the jobs: the database, where its app is installed.

What is kept there is trusted; what a message says is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery.schedules import BaseSchedule

__all__ = ["Arguments", "find_schedule", "kept_ticks", "look_in"]

Arguments = tuple[list[Any], dict[str, Any]]
"""Arguments and keywords of a task."""

_finder: Callable[[str], BaseSchedule | None] | None = None
_lister: Callable[[], Iterable[Arguments]] | None = None


def look_in(
    finder: Callable[[str], BaseSchedule | None], lister: Callable[[], Iterable[Arguments]]
) -> None:
    """Look for schedules in a further place.

    Args:
        finder: Is asked for the schedule of an entry of beat, by the entry's name.
        lister: Returns the arguments of each tick that is kept there.
    """
    global _finder, _lister
    _finder, _lister = finder, lister


def kept_ticks() -> Iterable[Arguments]:
    """Return the arguments of each tick that is kept besides the jobs."""
    return () if _lister is None else _lister()


def find_schedule(entry: str | None) -> BaseSchedule | None:
    """Return the schedule by which an entry of beat is ticked now; None: as the job declares."""
    return None if _finder is None or entry is None else _finder(entry)
