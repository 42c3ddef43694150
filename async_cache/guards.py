"""The guard of this process: which keys it has lately asked to have refreshed.

A stale entry is read many times while one refresh of it is under way. The guard makes all but the
first of these reads cost what a hit costs. It holds for one state of one entry, the entry's id and
the stamps in force: after an invalidation the next read asks again.
"""

from __future__ import annotations

import threading
from itertools import islice
from typing import Final

from async_cache import clock, threads

__all__ = ["MAX_GUARDS", "extend", "forget", "guard", "guarded", "shorten"]

MAX_GUARDS: Final = 10_000

_guards: dict[str, tuple[bytes, bytes, float]] = {}
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


def guard(entry_key: str, entry_id: bytes, stamps: bytes, seconds: float) -> None:
    """Set the guard of an entry for some seconds."""
    now = clock.monotonic()
    with _lock:
        _guards.pop(entry_key, None)  # so that the dict keeps the order of setting
        if len(_guards) >= MAX_GUARDS:
            _make_room(now)
        _guards[entry_key] = (entry_id, stamps, now + seconds)


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
            _guards[entry_key] = (held[0], held[1], now + seconds)


def shorten(entry_key: str, seconds: float) -> None:
    """Let the guard of an entry, if it has one, last no longer than so many seconds."""
    now = clock.monotonic()
    with _lock:
        held = _guards.get(entry_key)
        if held is not None:
            _guards[entry_key] = (held[0], held[1], min(held[2], now + seconds))


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
