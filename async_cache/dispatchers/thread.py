# ruff: noqa: D102  (the contract, in base.py, documents the operations)
"""Refresh in a few threads of this process: no worker needed, nothing survives the process."""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections import deque
from time import monotonic
from typing import Final

from async_cache import threads, worker
from async_cache.dispatchers.base import Dispatcher, Refresh
from async_cache.exceptions import DispatchFailed
from async_cache.signals import error_name

__all__ = ["MAX_BACKLOG", "MAX_THREADS", "ThreadDispatcher"]

logger = logging.getLogger("async_cache")

MAX_THREADS: Final = 4
MAX_BACKLOG: Final = 1000
"""Messages that wait for a thread; past it the publisher keeps them and tries again."""

EXIT_SECONDS: Final = 0.25


_made: weakref.WeakSet[ThreadDispatcher] = weakref.WeakSet()


class ThreadDispatcher(Dispatcher):
    """Runs refreshes in up to four daemon threads."""

    name = "thread"

    def __init__(self) -> None:
        self.reset()
        _made.add(self)

    def reset(self) -> None:
        """Start afresh, as after a fork: what waited is the parent's to run."""
        self._changed = threading.Condition(threading.Lock())
        self._backlog: deque[Refresh] = deque()
        self._threads: list[threading.Thread] = []
        self._busy = 0
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
            waiting = len(self._backlog) + self._busy
            if len(self._threads) < min(MAX_THREADS, waiting + 1):
                thread = threads.start("refresh", self._run)
                if thread is not None:
                    self._threads.append(thread)
            if self._threads:
                self._backlog.append(refresh)
                self._changed.notify()
                return
        # No thread can be had: the refresh runs here, as the publisher itself does then.
        worker.run_message(refresh.message)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._backlog:
                    if self._closed:
                        return
                    self._changed.wait()
                refresh = self._backlog.popleft()
                self._busy += 1
            try:
                worker.run_message(refresh.message)
            except Exception as error:  # noqa: BLE001 - logged
                # Failed fetches are recorded by the refresh itself: this is the cache not
                # answering or a mistake of ours, and must not end the thread.
                logger.warning("A refresh of %s ended with %s.", refresh.summary, error_name(error))
            finally:
                threads.close_connections()
                with self._changed:
                    self._busy -= 1
                    self._changed.notify_all()

    def drain(self, seconds: float = EXIT_SECONDS) -> bool:
        """Wait until nothing waits or runs, for so many seconds at most; tell whether it is so."""
        deadline = monotonic() + seconds
        with self._changed:
            while self._backlog or self._busy:
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
