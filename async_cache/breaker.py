"""Circuit breaker: leave alone for a moment what has just failed."""

from __future__ import annotations

import threading

from async_cache.signals import announce, error_name, store_failed, store_recovered

__all__ = ["Breaker", "StoreBreaker"]


class Breaker:
    """Refuse work for a pause after a failure, then let one caller probe.

    Args:
        pause: Seconds between a failure and the next probe.
    """

    __slots__ = ("_lock", "pause", "retry_at")

    def __init__(self, pause: float = 1.0) -> None:
        self.pause = pause
        #: When the next probe may start; 0.0 while all is well.
        self.retry_at = 0.0
        self._lock = threading.Lock()

    def admits(self, now: float) -> bool:
        """Tell whether to try; once a pause, True means that the caller is the probe."""
        if not self.retry_at:
            return True
        with self._lock:
            if not self.retry_at:
                return True
            if now < self.retry_at:
                return False
            # A probe that never reports back only delays the next one.
            self.retry_at = now + self.pause
            return True

    def failed(self, now: float) -> None:
        """Note a failure: nobody tries before the pause is over."""
        self.retry_at = now + self.pause

    def succeeded(self) -> None:
        """Note a success: everybody may try."""
        self.retry_at = 0.0


class StoreBreaker(Breaker):
    """The breaker of a store, which announces its outages.

    Args:
        alias: Name in ``CACHES``.
    """

    __slots__ = ("_down_since", "alias")

    def __init__(self, alias: str) -> None:
        super().__init__()
        self.alias = alias
        self._down_since: float | None = None

    def note(self, error: Exception, operation: str, now: float) -> None:
        """Note a failure and announce it; while the store is left alone there is none to note."""
        self.failed(now)
        if self._down_since is None:
            self._down_since = now
        self.refused(error, operation)

    def refused(self, error: Exception, operation: str) -> None:
        """Announce what a store that answers would not do; the next operation may do."""
        announce(
            store_failed,
            alias=self.alias,
            operation=operation,
            error=error,
            error_type=error_name(error),
        )

    def answered(self, now: float) -> None:
        """Note a success; announce it when it is the first after an outage."""
        self.succeeded()
        if self._down_since is None:
            return
        with self._lock:
            since, self._down_since = self._down_since, None
        if since is not None:
            announce(store_recovered, alias=self.alias, seconds=now - since)
