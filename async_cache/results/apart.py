"""Write results apart from the caller's transaction, so that they survive its rollback.

A server database gets a second, autocommit connection. SQLite lets one connection write at a time,
so there the write waits, in a thread of its own, for the end of the transaction; so it does on a
server where the caller's own transaction has locked what would be written. Where that cannot be
either (a database in memory, no threads, a full queue) the write is part of the transaction.
"""

from __future__ import annotations

import atexit
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Literal, TypeVar, cast, overload

from django.db import DatabaseError, connections, transaction

from async_cache import clock, threads
from async_cache.hooks import in_transaction
from async_cache.results.retrying import ends_transaction, is_blocked
from async_cache.stores.database import Detour, _swapped

__all__ = ["close", "flush", "run_apart", "settle"]

logger = logging.getLogger("async_cache.results")

T = TypeVar("T")

QUEUE_SIZE: Final = 10_000
"""Writes that may wait for the end of transactions."""
GIVE_UP_SECONDS: Final = 60.0
"""How long one of them tries while other transactions hold the database."""
PAUSE_SECONDS: Final = 0.02
TRIES: Final = 3
"""Transactions of one write on a server that ends them: a deadlock on MySQL."""
SETTLE_SECONDS: Final = 1.0
"""How long a reader waits for them."""
EXIT_SECONDS: Final = 5.0
"""How long the end of the process waits for them."""


class _Apart(Detour):
    """The detour of one database, whatever the routers say."""

    def __init__(self, alias: str) -> None:
        self._alias = alias
        super().__init__(None)

    @property
    def write_alias(self) -> str:
        return self._alias

    def run(self, work: Callable[..., T], *args: Any) -> T:
        first = connections[self._alias]
        if first.connection is None or not in_transaction(first):
            return work(*args)
        second = self._second(first)
        with _swapped({self._alias: second.wrapper}):
            for _ in range(TRIES - 1):
                try:
                    return self._run_apart(second, self._alias, work, *args)
                except DatabaseError as error:
                    if not ends_transaction(error):
                        raise
            return self._run_apart(second, self._alias, work, *args)


class _Later:
    """The writes that wait for the end of a transaction, and their thread."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Callable[[], object]] = queue.Queue(QUEUE_SIZE)
        self._lock = threading.Lock()
        self._idle = threading.Condition()
        self._open = 0
        self._thread: threading.Thread | None = None

    def put(self, work: Callable[[], object]) -> bool:
        """Queue a write; return False where it must be done at once."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threads.start("results", self._run)
            if self._thread is None:
                return False
        with self._idle:
            try:
                self._queue.put_nowait(work)
            except queue.Full:
                return False
            self._open += 1
        return True

    def flush(self, seconds: float) -> bool:
        """Wait until all that is queued is written; return False when the time is over."""
        if not self._open:
            return True
        with self._idle:
            return self._idle.wait_for(lambda: self._open == 0, seconds)

    def _run(self) -> None:
        while True:
            work = self._queue.get()
            try:
                self._write(work)
            finally:
                with self._idle:
                    self._open -= 1
                    self._idle.notify_all()
                    last = self._open == 0
            if last:
                threads.close_connections()

    @staticmethod
    def _write(work: Callable[[], object]) -> None:
        end = clock.monotonic() + GIVE_UP_SECONDS
        while True:
            try:
                work()
            except DatabaseError as error:
                if is_blocked(error) and clock.monotonic() < end:
                    # Mostly the database's own timeout has passed meanwhile.
                    time.sleep(PAUSE_SECONDS)
                    continue
                logger.exception("A result was not stored.")
            return


_detours = threading.local()
_later = _Later()


def _reset() -> None:
    global _later, _detours
    _later = _Later()
    _detours = threading.local()


threads.after_fork(_reset)


def flush(seconds: float = EXIT_SECONDS) -> bool:
    """Wait until the writes queued during transactions are done.

    Args:
        seconds: The longest wait.

    Returns:
        Whether all of them are.
    """
    return _later.flush(seconds)


atexit.register(flush)


def settle(alias: str) -> None:
    """Wait, before a read outside a transaction, for what this process stored during its last."""
    if not in_transaction(connections[alias]):
        flush(SETTLE_SECONDS)


def close() -> None:
    """Close this thread's second connections; they are made again when needed."""
    for detour in _detours.__dict__.values():
        detour.close()


@overload
def run_apart(
    alias: str,
    work: Callable[[], T],
    *,
    then: Callable[[T], object] | None = None,
    later: Literal[False],
) -> T: ...


@overload
def run_apart(
    alias: str,
    work: Callable[[], T],
    *,
    then: Callable[[T], object] | None = None,
    later: bool = True,
) -> T | None: ...


def run_apart(
    alias: str,
    work: Callable[[], T],
    *,
    then: Callable[[T], object] | None = None,
    later: bool = True,
) -> T | None:
    """Do database work outside the caller's transaction.

    Args:
        alias: The database.
        work: The work; it looks its connection up by the alias.
        then: Called with what the work returned, once that is committed.
        later: Whether it may wait for the end of the transaction; on SQLite it is else part of it.

    Returns:
        What it returned; None when it waits.
    """
    connection: Any = connections[alias]
    queued = False
    if connection.vendor == "sqlite":
        if later and in_transaction(connection) and not connection.is_in_memory_db():
            queued = _later.put(lambda: _followed(work(), then))
        answer = None if queued else work()
    else:
        found: dict[str, _Apart] = _detours.__dict__
        if alias not in found:
            found[alias] = _Apart(alias)
        try:
            answer = found[alias].run(work)
        except DatabaseError as error:
            # Most likely the caller's own transaction holds the lock.
            if later and is_blocked(error) and in_transaction(connection):
                queued = _later.put(lambda: _followed(_bounded(alias, work), then))
            if not queued:
                raise
            answer = None
    return None if queued else _followed(cast(T, answer), then)


def _followed(answer: T, then: Callable[[T], object] | None) -> T:
    if then is not None:
        then(answer)
    return answer


def _bounded(alias: str, work: Callable[[], T]) -> T:
    """Do work that gives up after a while where a lock is held."""
    with transaction.atomic(using=alias):
        _Apart._bound_waits(connections[alias])
        return work()
