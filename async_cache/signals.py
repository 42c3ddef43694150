"""What the core announces; logging and metrics listen.

Every signal is sent through `announce`. The sender is the job's class; None where there is no
single job (a store, a dispatcher, a message that names no known job). No signal carries a value, a
call's arguments or a secret. ``error`` is the exception itself, for listeners in this process: its
message may hold data of the project, so what leaves the process should be ``error_type`` only.

Common payload: ``job`` the job's name, ``key`` the digest that names the call within the job,
``seconds`` a duration, ``error`` an exception, ``error_type`` its qualified name.

=====================  ==========================================================================
Signal                 Payload and occasion
=====================  ==========================================================================
refresh_dispatched     ``job, key, dispatcher, task_id``: handed to a worker.
refresh_started        ``job, key, queued``: the lease is held, the fetch begins; ``queued`` is the
                       seconds that its message was on the way, None without one.
refresh_committed      ``job, key, seconds, size, stale``: stored; ``seconds`` the fetch took,
                       ``size`` bytes, ``stale`` when an invalidation came during the fetch.
refresh_failed         ``job, key, seconds, error, error_type, retry_after``: the fetch raised, or
                       its value cannot be stored. What was stored stays.
refresh_refused        ``job, key, reason``: fetched, not stored. ``"lost"`` the lease is another's,
                       ``"overtaken"`` a delete or set came during the fetch, ``"full"`` max_keys.
refresh_dropped        ``job, key, reason``: a message was not acted upon. ``"unknown"`` job,
                       ``"forged"``, ``"malformed"``, ``"expired"``, ``"gone"`` its arguments,
                       ``"fresh"`` already, ``"held"`` by another.
refresh_unanswered     ``job, key, attempts``: dispatched again, since ``attempts`` dispatches
                       before it got no answer within their grace.
refresh_coalesced      ``job, key``: not started because one is in flight.
entry_rejected         ``job, key, reason``: stored bytes do not open; the read is a miss.
call_uncached          ``job, key, max_keys``: answered without being stored.
scope_invalidated      ``scope, hard, job, key, tags``: ``scope`` is ``"job"``, ``"key"`` or
                       ``"tag"``; ``hard`` for delete, clear and set.
store_failed           ``alias, operation, error, error_type``: the cache did not answer.
store_recovered        ``alias, seconds``: it answers again, after ``seconds``.
dispatch_failed        ``dispatcher, job, count, error, error_type``: ``count`` refreshes were not
                       taken.
dispatch_recovered     ``dispatcher, seconds``: it takes refreshes again, after ``seconds``.
=====================  ==========================================================================

Listeners are plain functions. One that raises is logged and breaks nothing.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any, Final

from django.dispatch import Signal

__all__ = [
    "Announcement",
    "announce",
    "call_uncached",
    "dispatch_failed",
    "dispatch_recovered",
    "entry_rejected",
    "error_name",
    "refresh_coalesced",
    "refresh_committed",
    "refresh_dispatched",
    "refresh_dropped",
    "refresh_failed",
    "refresh_refused",
    "refresh_started",
    "refresh_unanswered",
    "scope_invalidated",
    "store_failed",
    "store_recovered",
]

logger = logging.getLogger("async_cache")


class Announcement(Signal):
    """A Django signal whose listeners are plain functions and whose failures log no data."""

    def connect(
        self,
        receiver: Callable[..., Any],
        sender: object | None = None,
        weak: bool = True,
        dispatch_uid: str | None = None,
    ) -> None:
        """Connect a listener.

        Raises:
            TypeError: The listener is a coroutine function: announcements are also made where an
                event loop runs and in threads without one, so none could be awaited reliably.
        """
        if inspect.iscoroutinefunction(receiver):
            raise TypeError(
                f"{_qualname(receiver)} is a coroutine function. Connect a plain function that "
                "hands its work to your event loop."
            )
        super().connect(receiver, sender=sender, weak=weak, dispatch_uid=dispatch_uid)

    def _log_robust_failure(self, receiver: object, err: BaseException) -> None:
        # Django's own logs the message and the traceback, which may hold a project's data.
        logger.error("A listener failed: %s raised %s.", _qualname(receiver), error_name(err))


def _qualname(receiver: object) -> str:
    return str(getattr(receiver, "__qualname__", type(receiver).__qualname__))


def error_name(error: BaseException) -> str:
    """Return the qualified name of an exception's type; builtins without their module."""
    kind = type(error)
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def announce(signal: Signal, *, sender: object | None = None, **payload: object) -> None:
    """Send a signal to its listeners; without listeners, do nothing.

    Args:
        signal: One of this module's signals.
        sender: The job's class, or None.
        **payload: What the signal's row above names.
    """
    if signal.receivers:
        signal.send_robust(sender, **payload)


refresh_dispatched: Final = Announcement()
refresh_started: Final = Announcement()
refresh_committed: Final = Announcement()
refresh_failed: Final = Announcement()
refresh_refused: Final = Announcement()
refresh_dropped: Final = Announcement()
refresh_unanswered: Final = Announcement()
refresh_coalesced: Final = Announcement()
entry_rejected: Final = Announcement()
call_uncached: Final = Announcement()
scope_invalidated: Final = Announcement()
store_failed: Final = Announcement()
store_recovered: Final = Announcement()
dispatch_failed: Final = Announcement()
dispatch_recovered: Final = Announcement()
