# ruff: noqa: D102  (the contract, in base.py, documents the operations)
"""Refresh in a few threads of this process: no worker needed, nothing survives the process.

Nothing can stop a thread. One whose fetch hangs is left to itself and another stands in for it.
"""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final

from async_cache import threads, worker
from async_cache.dispatchers.base import Dispatcher, Refresh
from async_cache.exceptions import DispatchFailed
from async_cache.signals import error_name

__all__ = ["MAX_BACKLOG", "MAX_HUNG", "MAX_THREADS", "ThreadDispatcher"]

logger = logging.getLogger("async_cache")

MAX_THREADS: Final = 4
MAX_HUNG: Final = 16
"""Threads whose fetch has run past its limit and that others stand in for, at most."""
MAX_BACKLOG: Final = 1000
"""Messages that wait for a thread; past it the publisher keeps them and tries again."""

EXIT_SECONDS: Final = 0.25


_made: weakref.WeakSet[ThreadDispatcher] = weakref.WeakSet()


class ThreadDispatcher(Dispatcher):
    """Runs up to four refreshes at a time in daemon threads.

    A fetch that runs past its ``fetch_timeout`` is abandoned: its thread is not counted any more.
    """

    name = "thread"

    def __init__(self) -> None:
        self.reset()
        _made.add(self)

    def reset(self) -> None:
        """Start afresh, as after a fork: what waited is the parent's to run."""
        self._changed = threading.Condition(threading.Lock())
        self._backlog: deque[Refresh] = deque()
        self._threads: list[threading.Thread] = []
        self._ends: dict[threading.Thread, float] = {}  # of the fetches that run now
        self._closed = False

    @property
    def needs_worker(self) -> bool:
        return False

    def dispatch(self, refresh: Refresh) -> None:
        with self._changed:
            if len(self._backlog) >= MAX_BACKLOG:
                raise DispatchFailed(
                    f"{MAX_BACKLOG} refreshes wait for the {MAX_THREADS} threads of this process."
                )
            self._closed = False
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            # One more than run at a time: it waits for one of them to end, or to be abandoned.
            waiting = len(self._backlog) + 1
            idle = len(self._threads) - len(self._ends)
            most = MAX_THREADS + MAX_HUNG
            if idle < min(waiting, self._room() + 1) and len(self._threads) < most:
                thread = threads.start("refresh", self._run)
                if thread is not None:
                    self._threads.append(thread)
            if self._threads:
                self._backlog.append(refresh)
                self._changed.notify()
                return
        # No thread can be had: the refresh runs here, as the publisher itself does then.
        worker.run_message(refresh.message)

    def _room(self) -> int:
        """Return how many more refreshes may run."""
        now = monotonic()
        return MAX_THREADS - sum(ends > now for ends in self._ends.values())

    def _run(self) -> None:
        while True:
            refresh = self._take()
            if refresh is None:
                return
            with self._running(refresh):
                try:
                    worker.run_message(refresh.message)
                except Exception as error:  # noqa: BLE001 - logged
                    # Failed fetches are recorded by the refresh itself: this is the cache not
                    # answering or a mistake of ours, and must not end the thread.
                    summary = refresh.summary
                    logger.warning("A refresh of %s ended with %s.", summary, error_name(error))
                finally:
                    threads.close_connections()

    def _take(self) -> Refresh | None:
        """Wait for a refresh that may run now; None when this thread is to end."""
        with self._changed:
            while not (self._backlog and self._room() > 0):
                spare = len(self._threads) - len(self._ends) > MAX_THREADS + 1
                if spare or (self._closed and not self._backlog):
                    # Here, so that a dispatch does not count on it.
                    self._threads.remove(threading.current_thread())
                    return None
                now = monotonic()
                running = [ends - now for ends in self._ends.values() if ends > now]
                self._changed.wait(min(running) if self._backlog and running else None)
            refresh = self._backlog.popleft()
            self._ends[threading.current_thread()] = monotonic() + refresh.fetch_timeout
            return refresh

    @contextmanager
    def _running(self, refresh: Refresh) -> Iterator[None]:
        try:
            yield
        finally:
            with self._changed:
                self._ends.pop(threading.current_thread(), None)
                self._changed.notify_all()

    def drain(self, seconds: float = EXIT_SECONDS) -> bool:
        """Wait until nothing waits or runs, for so many seconds at most; tell whether it is so."""
        deadline = monotonic() + seconds
        with self._changed:
            while self._backlog or self._ends:
                left = deadline - monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def close(self) -> None:
        """Let the threads end once their backlog is done."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def _reset_all() -> None:
    for dispatcher in list(_made):
        dispatcher.reset()


def _drain_all() -> None:
    deadline = monotonic() + EXIT_SECONDS
    for dispatcher in list(_made):
        dispatcher.drain(max(0.0, deadline - monotonic()))


threads.after_fork(_reset_all)
atexit.register(_drain_all)
