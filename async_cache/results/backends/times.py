"""When a task was sent and when it began: Celery's backends are told neither."""

from __future__ import annotations

from typing import Any, Final

from celery.signals import before_task_publish, task_prerun

from async_cache import clock

__all__ = ["sent_at", "started_at"]

SENT: Final = "async_cache_sent"
"""A header of messages whose results are wanted."""
STARTED: Final = "async_cache_started"
"""An attribute of requests."""


def _note_sent(headers: Any = None, **_: Any) -> None:
    if isinstance(headers, dict) and "id" in headers and not headers.get("ignore_result"):
        headers[SENT] = clock.now()


def _note_started(task: Any = None, **_: Any) -> None:
    setattr(task.request, STARTED, clock.now())


before_task_publish.connect(_note_sent, weak=False, dispatch_uid="async_cache.results.times")
task_prerun.connect(_note_started, weak=False, dispatch_uid="async_cache.results.times")


def sent_at(request: Any) -> float | None:
    """Return when the message of a request was sent, None where it does not say."""
    sent = getattr(request, SENT, None)
    # Whoever writes to the broker wrote it, by the sender's clock.
    return min(sent, clock.now()) if type(sent) is float and sent > 0 else None


def started_at(request: Any) -> float | None:
    """Return when this process began with a request, None elsewhere."""
    started: float | None = getattr(request, STARTED, None)
    return started
