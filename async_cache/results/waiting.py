"""Wait until a record or a group has ended: ask again, after pauses that grow, up to a bound."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from asgiref.sync import sync_to_async

from async_cache import clock
from async_cache.results.conf import get_results_settings

__all__ = ["arepeat", "bound", "repeat"]

T = TypeVar("T")

FIRST_PAUSE: Final = 0.005
LONGEST_PAUSE: Final = 0.25
_GROWTH: Final = 1.5


def bound(wait: float) -> float:
    """Return the seconds that a caller waits at most.

    Args:
        wait: Milliseconds; below zero for as long as ``MAX_WAIT`` permits.
    """
    longest = get_results_settings().max_wait
    return longest if wait < 0 else min(wait / 1000, longest)


def _pauses(seconds: float) -> Iterator[float]:
    end = clock.monotonic() + seconds
    pause = FIRST_PAUSE
    while (left := end - clock.monotonic()) > 0:
        yield min(pause, left)
        pause = min(pause * _GROWTH, LONGEST_PAUSE)


def repeat(ask: Callable[[], T], done: Callable[[T], bool], seconds: float) -> T:
    """Ask until the answer will do or the time is over; return the last answer."""
    never = threading.Event()
    answer = ask()
    if done(answer):
        return answer
    for pause in _pauses(seconds):
        never.wait(pause)
        answer = ask()
        if done(answer):
            break
    return answer


async def arepeat(ask: Callable[[], T], done: Callable[[T], bool], seconds: float) -> T:
    """Do as `repeat` does; no thread is held during the pauses."""
    asked = sync_to_async(ask)
    answer = await asked()
    if done(answer):
        return answer
    for pause in _pauses(seconds):
        await asyncio.sleep(pause)
        answer = await asked()
        if done(answer):
            break
    return answer
