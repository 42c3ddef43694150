"""One fetch a key and process: whoever comes while it runs waits for the same answer."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future
from typing import Any, Final

from async_cache import clock

__all__ = ["MAX_FLIGHTS", "Flight", "abandon", "finish", "join"]

MAX_FLIGHTS: Final = 10_000
"""Past so many keys in flight, a caller fetches on its own."""


class Flight(Future[Any]):
    """What the leader of a flight promises those who wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.started = clock.monotonic()


_flights: dict[str, Flight] = {}
_lock = threading.Lock()


def join(key: str) -> tuple[Flight, bool]:
    """Return the flight of a key, and whether the caller leads it.

    The leader must call `finish`, whatever happens.
    """
    with _lock:
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


def finish(key: str, flight: Flight, answer: Any) -> None:
    """End a flight that the caller led; those who wait receive the answer."""
    with _lock:
        if _flights.get(key) is flight:
            del _flights[key]
    flight.set_result(answer)


def _forget() -> None:
    # After a fork the leaders are threads of the parent: they never finish here.
    global _lock
    _lock = threading.Lock()
    _flights.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
