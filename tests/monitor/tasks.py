"""Tasks that the tests of the monitor have a real worker run."""

from __future__ import annotations

import logging
import threading

from celery import shared_task

__all__ = ["linger"]


@shared_task(name="tests.monitor.linger")
def linger(seconds: float) -> None:
    """Take so many seconds."""
    logging.getLogger("async_cache").warning("lingering")
    threading.Event().wait(seconds)
