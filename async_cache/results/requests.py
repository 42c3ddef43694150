"""What the main process of a worker does when the process of a call is gone.

A call past its hard time limit is killed, and so may be its process by the system: nobody is left
there to write the record. The main process writes it.
"""

from __future__ import annotations

import logging
from typing import Any

from billiard.einfo import ExceptionWithTraceback  # type: ignore[attr-defined]
from billiard.exceptions import Terminated, TimeLimitExceeded
from celery.exceptions import TaskRevokedError
from celery.signals import task_revoked
from celery.worker.request import Request

from async_cache import threads
from async_cache.results.exceptions import TaskTimeout
from async_cache.results.records import FAILURE, REVOKED
from async_cache.results.running import Site, keep_end
from async_cache.signals import error_name

__all__ = ["CallRequest"]

logger = logging.getLogger("async_cache.results")


class CallRequest(Request):
    """A call of `async_task` as the main process of a worker knows it."""

    _comes_again = False

    def reject(self, requeue: bool = False) -> None:
        """Give the message back."""
        self._comes_again = self._comes_again or requeue
        super().reject(requeue=requeue)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Keep the end of a call that its soft time limit did not stop."""
        super().on_timeout(soft, timeout)
        if not soft:
            self._keep_end(TimeLimitExceeded(timeout))

    def on_failure(
        self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False
    ) -> None:
        """Keep the end of a call whose process is gone, or did not keep it."""
        try:
            super().on_failure(exc_info, send_failed_event, return_ok)
        finally:
            error = exc_info.exception
            self._keep_end(error.exc if isinstance(error, ExceptionWithTraceback) else error)

    def _keep_end(self, error: BaseException) -> None:
        if self._comes_again or isinstance(error, Terminated):
            return  # the second is announced as revoked, or comes again too
        if isinstance(error, TimeLimitExceeded):
            hard, soft = self.time_limits
            said = f"its timeout of {soft:g} s" if soft else f"its time limit of {hard} s"
            error = TaskTimeout(f"The call ran past {said} and was killed.")
        _keep_end(self.id, self.args, FAILURE, error, self.hostname)


def _on_revoked(*, request: Any, terminated: bool, expired: bool, **_: Any) -> None:
    if request.task == "async_cache.run":
        reason = "expired" if expired else "terminated" if terminated else "revoked"
        _keep_end(request.id, request.args, REVOKED, TaskRevokedError(reason), request.hostname)


# Dispatched in the main process, whichever way the task was revoked.
task_revoked.connect(_on_revoked, weak=False, dispatch_uid="async_cache.results")


def _keep_end(task_id: str, args: Any, state: str, error: BaseException, worker: str) -> None:
    try:
        keep_end(args[0] if args else None, state, error, Site(worker=worker or ""))
    except Exception as raised:  # noqa: BLE001 - logged; the worker's loop goes on
        logger.error("The end of the task %s was not stored: %s.", task_id, error_name(raised))
    finally:
        # The processes that are forked next must not share them.
        threads.close_connections()
