"""The bounded queue of what is to be published, and the thread that empties it."""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from time import monotonic
from typing import Final

from async_cache import clock, guards, signals, threads
from async_cache.conf import get_settings
from async_cache.dispatchers.base import RefreshRequest
from async_cache.exceptions import DispatchFailed
from async_cache.press import Press, Wish
from async_cache.signals import announce, error_name

__all__ = ["BATCH", "EXIT_SECONDS", "Outbox"]

logger = logging.getLogger("async_cache")

BATCH: Final = 200
"""Wishes published in one round; more wait for the next."""

EXIT_SECONDS: Final = 0.25
"""How long the end of the process waits for what is still to be published."""


class Outbox:
    """The queue and its thread; one a process.

    The thread starts with the first wish, again after a fork, and has a moment to finish at exit.
    Where no thread can be had, whoever puts a wish publishes it.

    Args:
        press: Publishes; shared with those who publish in their own thread.
    """

    def __init__(self, press: Press) -> None:
        self.press = press
        self.reset()

    def reset(self) -> None:
        """Start afresh, as after a fork: what waited is the parent's to publish."""
        self._changed = threading.Condition(threading.Lock())
        self._waiting: OrderedDict[tuple[str, str], Wish] = OrderedDict()
        self._urgent: deque[Wish] = deque()
        self._dropped: Counter[tuple[str, str]] = Counter()
        self._in_hand = 0
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._turn = threading.Lock()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, requests: Sequence[RefreshRequest]) -> int:
        """Queue requests; return how many of them are now waiting."""
        size = get_settings().queue_size
        taken = 0
        with self._changed:
            news = not self._waiting
            for request in requests:
                wish = Wish(request)
                runtime = request.runtime
                if wish.key in self._waiting:
                    taken += 1
                elif self._stopping or len(self._waiting) + self._in_hand >= size:
                    guards.forget(request.address.entry)
                    self._dropped[runtime.dispatcher.name, runtime.name] += 1
                else:
                    self._waiting[wish.key] = wish
                    taken += 1
                    # While nobody answers, the thread wakes by itself to try again.
                    if not news:
                        news = not self.press.retry_at(runtime.alias, runtime.dispatcher.name)
            threaded = self._ensure_thread()
            if threaded and news:
                self._changed.notify()
        if not threaded and not self._stopping:
            self._publish_here()
        return taken

    def put_first(self, wish: Wish) -> bool:
        """Queue a wish that somebody waits for; False where no thread would take it."""
        with self._changed:
            if self._thread is threading.current_thread() or not self._ensure_thread():
                return False
            self._urgent.append(wish)
            self._changed.notify()
            return True

    def withdraw(self, wish: Wish) -> None:
        """Take back a wish put by `put_first`, unless it is already being published."""
        with self._changed:
            if wish in self._urgent:
                self._urgent.remove(wish)

    def drain(self, seconds: float = EXIT_SECONDS) -> None:
        """End the thread; what it cannot publish in so many seconds is left."""
        deadline = monotonic() + seconds
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(max(0.0, deadline - monotonic()))

    # --- the thread -----------------------------------------------------------------------------

    def _ensure_thread(self) -> bool:
        if self._thread is not None and self._thread.is_alive():
            return True
        self._thread = None if self._stopping else threads.start("publisher", self._run)
        return self._thread is not None

    def _run(self) -> None:
        while True:
            with self._changed:
                batch, patience = self._take()
                while not batch and not self._dropped and not self._stopping:
                    self._changed.wait(patience)
                    batch, patience = self._take()
                stopping = self._stopping
            self._publish(batch)
            with self._changed:
                idle = not self._waiting and not self._urgent
            if idle or not batch:
                threads.close_connections()
                if stopping:
                    return

    def _take(self) -> tuple[list[Wish], float | None]:
        """Take what may be tried now; return it, and how long to wait when that is nothing."""
        now = clock.monotonic()
        batch: list[Wish] = []
        while self._urgent:
            wish = self._urgent.popleft()
            if self._retry_at(wish) > now and wish.receipt is not None:
                runtime = wish.request.runtime
                reason = self.press.explain(runtime.alias, runtime.dispatcher.name)
                wish.receipt.fail(DispatchFailed(reason))
            else:
                batch.append(wish)
        retry_at: dict[tuple[str, str], float] = {}
        for key, wish in list(self._waiting.items()):
            if len(batch) >= BATCH:
                break
            runtime = wish.request.runtime
            pair = runtime.alias, runtime.dispatcher.name
            if pair not in retry_at:
                retry_at[pair] = self.press.retry_at(*pair)
            if retry_at[pair] > now:
                continue
            if retry_at[pair]:
                # What has failed gets one wish to probe with; its success lets the rest follow.
                retry_at[pair] = float("inf")
            batch.append(self._waiting.pop(key))
        self._in_hand = len(batch)
        patience = min(retry_at.values(), default=None) if self._waiting else None
        return batch, None if patience is None else max(0.01, min(patience - now, 1.0))

    def _retry_at(self, wish: Wish) -> float:
        runtime = wish.request.runtime
        return self.press.retry_at(runtime.alias, runtime.dispatcher.name)

    def _publish(self, batch: Sequence[Wish]) -> None:
        try:
            again = self.press.publish(batch) if batch else []
        except Exception as error:  # noqa: BLE001 - logged
            # A mistake of ours must not end the thread that all refreshes depend on.
            logger.error("Refreshes were not published: %s.", error_name(error))
            again = []
            for wish in batch:
                guards.forget(wish.request.address.entry)
                if wish.receipt is not None:
                    wish.receipt.fail(error)
        with self._changed:
            for wish in reversed(again):
                self._waiting[wish.key] = wish
                self._waiting.move_to_end(wish.key, last=False)
            self._in_hand = 0
            dropped, self._dropped = self._dropped, Counter()
        for (dispatcher, job), count in dropped.items():
            full = DispatchFailed("The queue of refreshes is full, or the process is ending.")
            announce(
                signals.dispatch_failed,
                dispatcher=dispatcher,
                job=job,
                count=count,
                error=full,
                error_type=error_name(full),
            )

    def _publish_here(self) -> None:
        """Publish in the caller's thread; what another thread publishes already is left to it."""
        if not self._turn.acquire(blocking=False):
            return
        try:
            with self._changed:
                batch, _ = self._take()
            self._publish(batch)
        finally:
            self._turn.release()
