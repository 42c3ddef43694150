"""The job of the soak, what every process counts of it, and where that is written.

Truth and counts lie in a Redis of their own, the board, which nothing happens to. A process that
has `SOAK_BOARD` in its environment counts from the import of this module on.
"""

from __future__ import annotations

import os
import random
import threading
import time
from typing import Any, Final

import redis

from async_cache import AsyncCacheJob, signals

__all__ = ["GRACE", "KEYS", "TTL", "Soaked", "board", "listen"]

TTL: Final = 2.0
GRACE: Final = 30.0
KEYS: Final = tuple(f"key{number}" for number in range(200))
OPEN, COUNTS, VERSIONS = "open", "counts", "versions"

fetching = threading.local()
_board: redis.Redis | None = None


def board() -> redis.Redis:
    """Return this process's client of the board."""
    global _board
    if _board is None:
        _board = redis.Redis.from_url(os.environ["SOAK_BOARD"], decode_responses=True)
    return _board


class Soaked(AsyncCacheJob[dict[str, Any]]):
    """When it was fetched and what was true then; one fetch in twenty fails."""

    ttl = TTL
    grace = GRACE
    jitter = 0
    lease = 3.0
    wait = 5.0
    fetch_timeout = 5.0
    tags = ("soaked",)

    def fetch(self, key: str) -> dict[str, Any]:
        fetching.began = at = time.time()
        version = int(board().hget(VERSIONS, key) or 0)
        time.sleep(random.uniform(0.002, 0.02))
        if random.random() < 0.05:
            raise OSError("the source is away")
        return {"key": key, "at": at, "version": version, "pid": os.getpid()}


def _started(job: str, key: str, **_: object) -> None:
    pipe = board().pipeline()
    pipe.hincrby(COUNTS, "started", 1)
    pipe.hincrby(OPEN, f"{os.getpid()} {threading.get_ident()} {key}", 1)
    pipe.execute()


def _ended(how: str, key: str) -> None:
    pipe = board().pipeline()
    pipe.hincrby(COUNTS, how, 1)
    pipe.hincrby(OPEN, f"{os.getpid()} {threading.get_ident()} {key}", -1)
    pipe.execute()


def _committed(key: str, **_: object) -> None:
    _ended("committed", key)


def _refused(key: str, **_: object) -> None:
    _ended("refused", key)


def _failed(key: str, **_: object) -> None:
    _ended("failed", key)


def _unanswered(**_: object) -> None:
    board().hincrby("outages", str(os.getpid()), 1)


def listen() -> None:
    """Count what is announced in this process."""
    signals.refresh_started.connect(_started)
    signals.refresh_committed.connect(_committed)
    signals.refresh_refused.connect(_refused)
    signals.refresh_failed.connect(_failed)
    signals.store_failed.connect(_unanswered)


if os.environ.get("SOAK_BOARD"):
    listen()
