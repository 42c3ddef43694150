"""The reads of each job in this process, counted in memory; who wants them takes them from here.

Counting costs a hit two additions and no lock: under the global interpreter lock nothing comes
between the read and the write of one, and where there is none a count may be lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

__all__ = ["MAX_TALLIES", "Tally", "all_tallies", "tally_of", "watch"]

MAX_TALLIES: Final = 1_000
"""Jobs that are counted apart; those past them are counted together, under an empty name."""


class Tally:
    """Reads of one job in this process since it started.

    Attributes:
        fresh: Answered with a fresh value, or a negative answer.
        stale: Answered with a stale value.
        miss: Nothing servable was stored.
        error: The cache did not answer, or what it holds did not open.
        age: Seconds of age of all values served, together.
    """

    __slots__ = ("age", "error", "fresh", "miss", "stale")

    def __init__(self) -> None:
        self.fresh = 0
        self.stale = 0
        self.miss = 0
        self.error = 0
        self.age = 0.0


_tallies: Final[dict[str, Tally]] = {}
_watcher: Callable[[], object] | None = None


def tally_of(name: str) -> Tally:
    """Return the tally of a job."""
    if name not in _tallies and len(_tallies) >= MAX_TALLIES:
        name = ""
    if _watcher is not None:
        _watcher()
    return _tallies.setdefault(name, Tally())


def all_tallies() -> dict[str, Tally]:
    """Return the tallies of this process by job."""
    return dict(_tallies)


def watch(watcher: Callable[[], object] | None) -> None:
    """Have a function called whenever a job is made ready to be read; None ends that."""
    global _watcher
    _watcher = watcher
