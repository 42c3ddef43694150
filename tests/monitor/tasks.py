"""Tasks, and a job, that the tests of the monitor have a real worker run."""

from __future__ import annotations

import logging
import threading
from typing import Any

from celery import shared_task

from async_cache import AsyncCacheJob

__all__ = ["Doubles", "linger", "whisper"]


class Doubles(AsyncCacheJob[int]):
    """Numbers, doubled."""

    ttl = 60

    def fetch(self, n: int) -> int:
        """Return twice as much."""
        return 2 * n


@shared_task(name="tests.monitor.linger")
def linger(seconds: float) -> None:
    """Take so many seconds."""
    logging.getLogger("async_cache").warning("lingering")
    threading.Event().wait(seconds)


secret: Any = {"redact": lambda args, kwargs: ((), {})}


@shared_task(name="tests.monitor.whisper", **secret)
def whisper(word: str) -> None:
    """Take what nobody is to see."""
