"""One fetch a key and process: whoever comes while it runs waits for the same answer."""

from __future__ import annotations

import os
import threading
from collections import deque
from concurrent.futures import Future
from typing import Any, Final

from async_cache import clock

__all__ = ["MAX_FLIGHTS", "Flight", "abandon", "finish", "join"]

MAX_FLIGHTS: Final = 10_000
"""Past so many keys in flight, a caller fetches on its own."""

LINGER_SECONDS: Final = 0.05
"""How long a flight that could store nothing still answers. While the cache is silent, those who
read a key at the same time come here one after another, as each of them has waited in vain."""


class Flight(Future[Any]):
    """What the leader of a flight promises those who wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.started = clock.monotonic()
        self.ends = float("inf")


_flights: dict[str, Flight] = {}
_lingering: deque[tuple[str, Flight]] = deque()
_lock = threading.Lock()


def join(key: str) -> tuple[Flight, bool]:
    """Return the flight of a key, and whether the caller leads it.

    The leader must call `finish`, whatever happens.
    """
    with _lock:
        _sweep()
        flight = _flights.get(key)
        if flight is not None:
            return flight, False
        flight = Flight()
        if len(_flights) < MAX_FLIGHTS:
            _flights[key] = flight
        return flight, True


def abandon(key: str, flight: Flight, seconds: float) -> None:
    """Let the next caller lead, if a flight has not ended within so many seconds.

    Its fetch hangs, or its event loop is gone: by then its lease is another's to take.
    """
    with _lock:
        if _flights.get(key) is flight and clock.monotonic() - flight.started >= seconds:
            del _flights[key]


def finish(key: str, flight: Flight, answer: Any, *, linger: bool = False) -> None:
    """End a flight that the caller led; those who wait receive the answer.

    Args:
        key: The one given to `join`.
        flight: What `join` returned.
        answer: What became of it; None lets the others begin again.
        linger: Whether those who come within a moment receive it too.
    """
    with _lock:
        _sweep()
        if _flights.get(key) is flight:
            if linger:
                flight.ends = clock.monotonic() + LINGER_SECONDS
                _lingering.append((key, flight))
            else:
                del _flights[key]
    flight.set_result(answer)


def _sweep() -> None:
    while _lingering and _lingering[0][1].ends <= clock.monotonic():
        key, flight = _lingering.popleft()
        if _flights.get(key) is flight:
            del _flights[key]


def _forget() -> None:
    # After a fork the leaders are threads of the parent: they never finish here.
    global _lock
    _lock = threading.Lock()
    _flights.clear()
    _lingering.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
