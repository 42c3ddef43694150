"""Ask until the answer will do: at first, when told, and at the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from numbers import Real
from typing import TYPE_CHECKING, Final, TypeVar

from asgiref.sync import sync_to_async

from async_cache import clock, validators
from async_cache.results.conf import get_results_settings
from async_cache.results.waiting.registry import watch
from async_cache.results.waiting.topics import Topic
from async_cache.results.waiting.waiters import LoopWaiter, ThreadWaiter

if TYPE_CHECKING:
    from async_cache.results.layers.base import Layer

__all__ = ["OWN_LOOK", "await_until", "bound", "pauses", "wait_until"]

T = TypeVar("T")

OWN_LOOK: Final = 30.0
"""Seconds after which a waiter who was told nothing asks for himself, whatever has happened."""
FIRST_PAUSE: Final = 0.005
LONGEST_PAUSE: Final = 0.25
_GROWTH: Final = 1.5


def bound(wait: float) -> float:
    """Return the seconds that a caller waits at most.

    Args:
        wait: Milliseconds; below zero for as long as ``MAX_WAIT`` permits.

    Raises:
        TypeError: It is no number.
    """
    if not isinstance(wait, Real):
        raise TypeError(
            f"wait takes a number of milliseconds, -1 without end, not {validators.shown(wait)}."
        )
    longest = get_results_settings().max_wait
    return longest if wait < 0 else min(wait / 1000, longest)


def pauses(longest: float = LONGEST_PAUSE, growth: float = _GROWTH) -> Iterator[float]:
    """Yield the pauses of one whom nobody tells: short at first, then ever longer."""
    pause = min(FIRST_PAUSE, longest)
    while True:
        yield pause
        pause = min(pause * growth, longest)


def wait_until(
    layer: Layer,
    topics: Mapping[Topic, int],
    ask: Callable[[], T],
    done: Callable[[T], bool],
    seconds: float,
    told_answer: Callable[[Mapping[Topic, int]], T] | None = None,
) -> T:
    """Ask until the answer will do or the time is over; return the last answer.

    Args:
        layer: Where to look.
        topics: What the answer depends on; of a group, how many members are to end.
        ask: Looks for the answer.
        done: Tells whether it will do.
        seconds: The longest wait.
        told_answer: Makes an answer of what he is told, which saves him from asking again.
    """
    answer = ask()
    if seconds <= 0 or done(answer):
        return answer
    end = clock.monotonic() + seconds
    waiter = ThreadWaiter(topics)
    with watch(layer, waiter) as told:
        own = pauses()
        while (left := end - clock.monotonic()) > 0:
            if told:
                heard = waiter.wait(min(left, OWN_LOOK))
                if heard and told_answer and done(answer := told_answer(waiter.take())):
                    break
            else:
                time.sleep(min(left, next(own)))
            answer = ask()
            if done(answer):
                break
    return answer


async def await_until(
    layer: Layer,
    topics: Mapping[Topic, int],
    ask: Callable[[], T],
    done: Callable[[T], bool],
    seconds: float,
    told_answer: Callable[[Mapping[Topic, int]], T] | None = None,
) -> T:
    """Do as `wait_until` does; no thread is held meanwhile."""
    asked = sync_to_async(ask)
    answer = await asked()
    if seconds <= 0 or done(answer):
        return answer
    end = clock.monotonic() + seconds
    waiter = LoopWaiter(topics)
    with watch(layer, waiter) as told:
        own = pauses()
        while (left := end - clock.monotonic()) > 0:
            if told:
                heard = await waiter.wait(min(left, OWN_LOOK))
                if heard and told_answer and done(answer := told_answer(waiter.take())):
                    break
            else:
                await asyncio.sleep(min(left, next(own)))
            answer = await asked()
            if done(answer):
                break
    return answer
