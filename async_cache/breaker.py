"""Circuit breaker: leave alone for a moment what has just failed."""

from __future__ import annotations

import threading

__all__ = ["Breaker"]


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
