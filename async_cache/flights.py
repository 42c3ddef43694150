"""One fetch a key and process: whoever comes while it runs waits for the same answer."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future
from typing import Any, Final

__all__ = ["MAX_FLIGHTS", "finish", "join"]

MAX_FLIGHTS: Final = 10_000
"""Past so many keys in flight, a caller fetches on its own."""

_flights: dict[str, Future[Any]] = {}
_lock = threading.Lock()


def join(key: str) -> tuple[Future[Any], bool]:
    """Return the flight of a key, and whether the caller leads it.

    The leader must call `finish`, whatever happens.
    """
    with _lock:
        flight = _flights.get(key)
        if flight is not None:
            return flight, False
        flight = Future()
        if len(_flights) < MAX_FLIGHTS:
            _flights[key] = flight
        return flight, True


def finish(key: str, flight: Future[Any], answer: Any) -> None:
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
