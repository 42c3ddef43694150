"""One fetch a key and process: whoever comes while it runs waits for the same answer."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future
from typing import Any, Final

from async_cache import clock

__all__ = ["MAX_FLIGHTS", "Flight", "abandon", "end_lingering", "finish", "join"]

MAX_FLIGHTS: Final = 10_000
"""Past so many keys in flight, a caller fetches on its own."""

MAX_LINGERING: Final = 100
"""Answers that linger; they hold values."""

LINGER_SECONDS: Final = 0.25
"""How long a flight that could store nothing still answers those whose read failed. While the cache
is silent, who reads a key at the same time comes here one after another: each has waited in vain,
as long as the default ``IO_TIMEOUT``."""


class Flight(Future[Any]):
    """What the leader of a flight promises those who wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.started = clock.monotonic()
        self.ends = float("inf")


_flights: dict[str, Flight] = {}
_lingering: dict[str, Flight] = {}
_lock = threading.Lock()


def join(key: str, *, late: bool = False) -> tuple[Flight, bool]:
    """Return the flight of a key, and whether the caller leads it.

    The leader must call `finish`, whatever happens.

    Args:
        key: Names what is fetched.
        late: Whether one that has just ended, and lingers, will do: the caller's read failed.
    """
    with _lock:
        _sweep()
        flight = _flights.get(key)
        if flight is None and late:
            flight = _lingering.get(key)
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
        linger: Whether those who come within a moment may have it too.
    """
    with _lock:
        _sweep()
        if _flights.get(key) is flight:
            del _flights[key]
            if linger and len(_lingering) < MAX_LINGERING:
                flight.ends = clock.monotonic() + LINGER_SECONDS
                _lingering[key] = flight
    flight.set_result(answer)


def end_lingering() -> None:
    """Let no answer of the past reach anybody: something has been changed."""
    with _lock:
        _lingering.clear()


def _sweep() -> None:
    if _lingering:
        now = clock.monotonic()
        for key in [key for key, flight in _lingering.items() if flight.ends <= now]:
            del _lingering[key]


def _forget() -> None:
    # After a fork the leaders are threads of the parent: they never finish here.
    global _lock
    _lock = threading.Lock()
    _flights.clear()
    _lingering.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
