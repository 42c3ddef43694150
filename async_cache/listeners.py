"""Logging listens to the signals here. Nothing logs a value, an argument or an error's message.

Everything goes to the logger ``async_cache``. Warnings are limited to one a minute for each kind of
warning and each job (or store, or dispatcher); the next one tells how many were left out.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from django.dispatch import Signal

from async_cache import signals

__all__ = ["RateLimit", "connect", "disconnect", "limit"]

logger = logging.getLogger("async_cache")


class RateLimit:
    """Admit one event a key and interval, and count the others. Bounded; safe in threads.

    Args:
        seconds: The interval.
        max_keys: Keys remembered; past it the one admitted longest ago is forgotten.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        seconds: float = 60.0,
        max_keys: int = 1000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds = seconds
        self.max_keys = max_keys
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()

    def admit(self, kind: str, subject: str) -> int | None:
        """Return how many were left out since the last one admitted; None to leave this one out."""
        key = (kind, subject)
        now = self._clock()
        with self._lock:
            seen = self._seen.get(key)
            if seen is not None and now - seen[0] < self.seconds:
                self._seen[key] = (seen[0], seen[1] + 1)
                return None
            self._seen[key] = (now, 0)
            self._seen.move_to_end(key)
            while len(self._seen) > self.max_keys:
                self._seen.popitem(last=False)
        return seen[1] if seen is not None else 0

    def clear(self) -> None:
        """Forget all events."""
        with self._lock:
            self._seen.clear()

    def __len__(self) -> int:
        return len(self._seen)


limit: Final = RateLimit()


def _warn(kind: str, subject: object, message: str, *args: object) -> None:
    left_out = limit.admit(kind, str(subject))
    if left_out is None:
        return
    if left_out:
        message, args = message + " (%d more since the last such warning.)", (*args, left_out)
    logger.warning(message, *args)


def _on_refresh_failed(
    *, job: str, key: str, error_type: str, retry_after: float | None = None, **_: Any
) -> None:
    later = (
        "" if retry_after is None else f" The next try is in {retry_after:.1f} s at the soonest."
    )
    message = "The refresh of %s (%s) failed with %s. What is stored stays.%s"
    _warn("failed", job, message, job, key, error_type, later)


def _on_refresh_refused(*, job: str, key: str, reason: str, **_: Any) -> None:
    # "overtaken" is an invalidation at work, "full" is announced as call_uncached.
    if reason == "lost":
        _warn(
            "lost",
            job,
            "The refresh of %s (%s) was not stored: its lease had ended and another took over. "
            "If this happens often, raise the option `lease` or `fetch_timeout`.",
            job,
            key,
        )


_DROPPED: Final = {
    "unknown": (
        "names a job this worker does not know. Deploy the same code to workers and web servers, "
        'restart the workers, or list the module in ASYNC_CACHE["JOB_MODULES"].'
    ),
    "forged": (
        "is not sealed with this project's SECRET_KEY. Give workers and web servers the same "
        "SECRET_KEY, or the former one in SECRET_KEY_FALLBACKS."
    ),
    "expired": (
        "came after its time. The queue is slow: add workers, or give slow jobs a `queue` of their "
        "own."
    ),
}


def _on_refresh_dropped(*, job: str, reason: str, **_: Any) -> None:
    # "fresh" and "held" are the usual fate of a message that has been overtaken by another.
    remedy = _DROPPED.get(reason)
    if remedy is not None:
        _warn(
            f"dropped {reason}", job, "A message for %s was dropped: it %s", job or "a job", remedy
        )


def _on_refresh_unanswered(*, job: str, key: str, attempts: int, **_: Any) -> None:
    _warn(
        "unanswered",
        job,
        "The refresh of %s (%s) was dispatched again: %d before it got no answer. "
        "Is a worker running, and does it consume the job's queue?",
        job,
        key,
        attempts,
    )


def _on_entry_rejected(*, job: str, key: str, reason: str, **_: Any) -> None:
    _warn(
        "rejected",
        job,
        "A stored entry of %s (%s) was rejected (%s) and counts as a miss. After a change of "
        "SECRET_KEY keep the former one in SECRET_KEY_FALLBACKS; else see who writes to the cache.",
        job,
        key,
        reason,
    )


def _on_call_uncached(*, job: str, max_keys: int, **_: Any) -> None:
    _warn(
        "uncached",
        job,
        "%s has reached max_keys=%d: new calls are answered without being stored. "
        "Raise the option `max_keys` or call the job with fewer distinct arguments.",
        job,
        max_keys,
    )


def _on_store_failed(*, alias: str, operation: str, error_type: str, **_: Any) -> None:
    _warn(
        "store",
        alias,
        'The cache "%s" did not answer (%s: %s). Values are fetched directly until it does.',
        alias,
        operation,
        error_type,
    )


def _on_store_recovered(*, alias: str, seconds: float, **_: Any) -> None:
    logger.info('The cache "%s" answers again, after %.1f s.', alias, seconds)


def _on_dispatch_failed(*, dispatcher: str, count: int, error_type: str, **_: Any) -> None:
    _warn(
        "dispatch",
        dispatcher,
        'The dispatcher "%s" did not take %d refreshes (%s). Stale values are served, and a later '
        "read tries again. Is the broker running?",
        dispatcher,
        count,
        error_type,
    )


def _on_dispatch_recovered(*, dispatcher: str, seconds: float, **_: Any) -> None:
    logger.info('The dispatcher "%s" takes refreshes again, after %.1f s.', dispatcher, seconds)


_LISTENERS: Final[tuple[tuple[Signal, Callable[..., None]], ...]] = (
    (signals.refresh_failed, _on_refresh_failed),
    (signals.refresh_refused, _on_refresh_refused),
    (signals.refresh_dropped, _on_refresh_dropped),
    (signals.refresh_unanswered, _on_refresh_unanswered),
    (signals.entry_rejected, _on_entry_rejected),
    (signals.call_uncached, _on_call_uncached),
    (signals.store_failed, _on_store_failed),
    (signals.store_recovered, _on_store_recovered),
    (signals.dispatch_failed, _on_dispatch_failed),
    (signals.dispatch_recovered, _on_dispatch_recovered),
)


def connect() -> None:
    """Let logging listen. Connecting twice is the same as once."""
    for signal, listener in _LISTENERS:
        signal.connect(listener, dispatch_uid="async_cache.listeners")


def disconnect() -> None:
    """Let logging listen no more."""
    for signal, _ in _LISTENERS:
        signal.disconnect(dispatch_uid="async_cache.listeners")
