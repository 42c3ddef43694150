"""Count, in this process, what the core announces; put the tallies of its reads beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

from async_cache import clock, signals, tallies, threads
from async_cache.monitor.statistics import Counts

__all__ = ["collect", "connect", "disconnect"]

_UID: Final = "async_cache.monitor.counting"
_READS: Final = {
    "fresh": "fresh", "stale": "stale", "miss": "miss", "error": "error", "age": "age_seconds"
}  # fmt: skip

_lock = threading.Lock()
_counts: dict[str, Counts] = {}
# What the tallies stood at when this process was forked: the parent counts that.
_before: dict[str, dict[str, float]] = {}


def collect() -> dict[str, Counts]:
    """Return what this process has counted since it started, by job."""
    found: dict[str, Counts] = {}
    with _lock:
        for job, counts in _counts.items():
            found.setdefault(job, Counts()).merge(counts)
    for job, read in _reads().items():
        before = _before.get(job, {})
        counts = found.setdefault(job, Counts())
        for name, number in read.items():
            if number != before.get(name, 0):
                counts.add(_READS[name], number - before.get(name, 0))
    return {job: counts for job, counts in found.items() if counts.sums}


def _reads() -> dict[str, dict[str, float]]:
    return {
        job: {name: getattr(tally, name) for name in _READS}
        for job, tally in tallies.all_tallies().items()
    }


def _of(job: str) -> Counts:
    """Return the counts of a job; call it under the lock."""
    if job not in _counts and len(_counts) >= tallies.MAX_TALLIES:
        job = ""
    return _counts.setdefault(job, Counts())


def _counter(name: str) -> Callable[..., None]:
    def count(*, job: str = "", reason: str | None = None, **_: Any) -> None:
        with _lock:
            if reason is None:
                _of(job).add(name)
            else:
                _of(job).add_reason(name, reason)

    return count


def _started(*, job: str, queued: float | None = None, **_: Any) -> None:
    with _lock:
        counts = _of(job)
        counts.add("started")
        if queued is not None:
            counts.add("queued")
            counts.add("queued_seconds", queued)


def _committed(*, job: str, seconds: float, **_: Any) -> None:
    with _lock:
        counts = _of(job)
        counts.add("committed")
        counts.add("fetch_seconds", seconds)
        counts.longest_fetch = max(counts.longest_fetch, seconds)
        counts.last_success = clock.now()


def _failed(*, job: str, seconds: float, error_type: str, **_: Any) -> None:
    with _lock:
        counts = _of(job)
        counts.add("failed")
        counts.longest_fetch = max(counts.longest_fetch, seconds)
        counts.last_failure, counts.last_error = clock.now(), error_type


def _rejected(*, job: str = "", **_: Any) -> None:
    # Its reason is a sentence, and there is no end to them.
    with _lock:
        _of(job).add("rejected")


_LISTENERS: Final = (
    (signals.refresh_dispatched, _counter("dispatched")),
    (signals.refresh_unanswered, _counter("unanswered")),
    (signals.refresh_coalesced, _counter("coalesced")),
    (signals.refresh_started, _started),
    (signals.refresh_committed, _committed),
    (signals.refresh_failed, _failed),
    (signals.refresh_refused, _counter("refused")),
    (signals.refresh_dropped, _counter("dropped")),
    (signals.entry_rejected, _rejected),
    (signals.call_uncached, _counter("uncached")),
)


def connect() -> None:
    """Let the counters listen. Connecting twice is the same as once."""
    for signal, listener in _LISTENERS:
        signal.connect(listener, weak=False, dispatch_uid=_UID)


def disconnect() -> None:
    """Let the counters listen no more."""
    for signal, _ in _LISTENERS:
        signal.disconnect(dispatch_uid=_UID)


def _start_anew() -> None:
    # What the parent has counted is the parent's to tell.
    global _lock, _before
    _lock = threading.Lock()
    _counts.clear()
    _before = _reads()


threads.after_fork(_start_anew)
