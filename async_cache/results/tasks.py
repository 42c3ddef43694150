"""The Celery tasks: one makes the calls of `async_task`, one deletes old results."""

from __future__ import annotations

from typing import Any, Final

from celery import Task, shared_task
from celery.exceptions import SoftTimeLimitExceeded

from async_cache import clock, threads
from async_cache.breaker import Breaker
from async_cache.dispatchers.celery import BrokerBusy, CeleryDispatcher
from async_cache.exceptions import AsyncCacheError, DispatchFailed
from async_cache.results import running, upkeep
from async_cache.results.conf import get_results_settings
from async_cache.signals import error_name

__all__ = ["PURGE_SECONDS", "TASK_NAME", "publish", "purge", "run"]

TASK_NAME: Final = "async_cache.run"

PURGE_SECONDS: Final = 60.0
"""After this time a purge begins no further batch, unless told otherwise."""

SAVE_PAUSES: Final = (0.1, 0.5, 2.0)
"""Seconds between the tries to keep an outcome: longer than a store that failed is left alone."""

# A connection of its own: pages that send calls and the publisher of refreshes do not wait for
# each other.
_broker: Final = CeleryDispatcher()
_breaker = Breaker()


def _reset() -> None:
    global _breaker
    _breaker = Breaker()


threads.after_fork(_reset)


class _Call(Task):  # type: ignore[type-arg]
    """The main process of a worker keeps the end of a call whose process is gone."""

    Request = "async_cache.results.requests:CallRequest"


@shared_task(
    name=TASK_NAME,
    base=_Call,
    bind=True,
    ignore_result=True,
    max_retries=0,
    serializer="json",
)
def run(self: Any, sealed: str) -> str:
    """Make the call of a sealed message.

    Args:
        self: The task.
        sealed: A message of `async_cache.results.messages`.

    Returns:
        How it ended; never a value.
    """
    request = self.request
    tracks = get_results_settings().track_started
    _hard, soft = request.timelimit or (None, None)
    site = running.Site(
        worker=request.hostname or "",
        tracks=bool(self.track_started if tracks is None else tracks),
        timeout=soft,
        timeouts=(SoftTimeLimitExceeded,),
        pauses=SAVE_PAUSES,
    )
    return running.run_sealed(sealed, site)


@shared_task(name="async_cache.purge", ignore_result=True, max_retries=0, serializer="json")
def purge(seconds: float = PURGE_SECONDS) -> dict[str, int | bool]:
    """Delete the results that are older than the settings keep them.

    Args:
        seconds: When it is over, no further batch begins; the next run goes on.

    Returns:
        ``deleted``, the number of rows, and ``finished``, whether that was all.
    """
    purged = upkeep.purge(seconds=seconds)
    return {"deleted": purged.deleted, "finished": purged.finished}


def publish(sealed: str, task_id: str, path: str, timeout: float | None) -> None:
    """Send a sealed message to the workers, or say within ``PUBLISH_TIMEOUT`` that none took it.

    Where Celery runs tasks eagerly the call is made here.

    Args:
        sealed: The message.
        task_id: The task's id.
        path: What it calls, for the logs of the workers.
        timeout: Seconds that the call may take.

    Raises:
        DispatchFailed: The broker did not take it.
    """
    if _broker.inline:
        # What the call itself raises is in its record; this is about the record.
        run.apply(args=(sealed,), task_id=task_id, throw=True)
        return
    if not _breaker.admits(clock.monotonic()):
        raise DispatchFailed(
            f"The call of {path} was not sent: Celery's broker has just failed, and is tried again "
            "in a second. See that the server of broker_url runs and can be reached from here."
        )
    try:
        _broker.send(TASK_NAME, sealed, task_id=task_id, summary=path, timeout=timeout)
    except BrokerBusy:
        raise
    except DispatchFailed:
        _breaker.failed(clock.monotonic())
        raise
    except AsyncCacheError:
        raise
    except Exception as error:
        raise DispatchFailed(
            f"Celery's broker refused the call of {path}: {error_name(error)}. It answers, so see "
            "what it says (the cause of this error): its memory, or its queue's declaration."
        ) from error
    _breaker.succeeded()
