"""The guard of this process: which keys it has lately asked to have refreshed.

A stale entry is read many times while one refresh of it is under way. The guard makes all but the
first of these reads cost what a hit costs. It holds for one state of one entry, the entry's id and
the stamps in force: after an invalidation the next read asks again.

It also remembers when the request was sent. An entry that came since, and seems old already, comes
from a clock that is not ours: without a limit it would be refreshed again and again.
"""

from __future__ import annotations

import threading
from itertools import islice
from typing import Final

from async_cache import clock, threads

__all__ = [
    "MAX_GUARDS",
    "answered_since",
    "extend",
    "forget",
    "guard",
    "guarded",
    "note_sent",
    "shorten",
]

MAX_GUARDS: Final = 10_000

_NEVER: Final = float("-inf")

_guards: dict[str, tuple[bytes, bytes, float, float]] = {}
_lock = threading.Lock()


def guarded(entry_key: str, entry_id: bytes, stamps: bytes) -> bool:
    """Tell whether a refresh of just this state of the entry has lately been asked for."""
    held = _guards.get(entry_key)
    return (
        held is not None
        and held[0] == entry_id
        and held[1] == stamps
        and held[2] > clock.monotonic()
    )


def answered_since(entry_key: str, entry_id: bytes, stamps: bytes, seconds: float) -> bool:
    """Tell whether another state than this one was sent for a refresh in the last seconds.

    Stamps that have moved since make no answer: this state is stale for another reason.
    """
    held = _guards.get(entry_key)
    return (
        held is not None
        and held[0] != entry_id
        and held[1] == stamps
        and clock.monotonic() - held[3] < seconds
    )


def note_sent(entry_key: str) -> None:
    """Note that the request behind a guard, if there is one, goes to a worker now."""
    now = clock.monotonic()
    with _lock:
        held = _guards.get(entry_key)
        if held is not None:
            _guards[entry_key] = (*held[:3], now)


def guard(entry_key: str, entry_id: bytes, stamps: bytes, seconds: float) -> None:
    """Set the guard of an entry for some seconds."""
    now = clock.monotonic()
    with _lock:
        _guards.pop(entry_key, None)  # so that the dict keeps the order of setting
        if len(_guards) >= MAX_GUARDS:
            _make_room(now)
        _guards[entry_key] = (entry_id, stamps, now + seconds, _NEVER)


def _make_room(now: float) -> None:
    for key in [key for key, held in _guards.items() if held[2] <= now]:
        del _guards[key]
    # A part of them at once, so that a full map is not searched at every call.
    for key in list(islice(_guards, max(0, len(_guards) - MAX_GUARDS * 7 // 8))):
        del _guards[key]


def extend(entry_key: str, seconds: float) -> None:
    """Let the guard of an entry, if it has one, last so many seconds from now."""
    now = clock.monotonic()
    with _lock:
        held = _guards.get(entry_key)
        if held is not None:
            _guards[entry_key] = (held[0], held[1], now + seconds, held[3])


def shorten(entry_key: str, seconds: float) -> None:
    """Let the guard of an entry, if it has one, last no longer than so many seconds."""
    now = clock.monotonic()
    with _lock:
        held = _guards.get(entry_key)
        if held is not None:
            _guards[entry_key] = (held[0], held[1], min(held[2], now + seconds), held[3])


def forget(entry_key: str | None = None) -> None:
    """Drop the guard of an entry, or all of them."""
    with _lock:
        if entry_key is None:
            _guards.clear()
        else:
            _guards.pop(entry_key, None)


def _reset() -> None:
    global _lock
    _lock = threading.Lock()
    _guards.clear()


threads.after_fork(_reset)
