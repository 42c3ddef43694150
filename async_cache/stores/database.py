"""Keep a DatabaseCache out of the caller's transaction.

Inside a transaction a lease or a stamp would be invisible to others until commit, a second ``add``
would wait for the first one's transaction, and a snapshot would show old stamps. So the cache's
operations then run on a second, autocommit connection, put in the place of the first one for as
long as each takes. SQLite lets one connection write at a time: there the store says that it cannot
write now.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from django.db import DEFAULT_DB_ALIAS, connections, router, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

__all__ = ["Detour", "in_transaction", "sqlite_loses_writes"]

# A row that the caller's own transaction has locked is never released while we wait for it.
LOCK_TIMEOUT_MS = 1_000

T = TypeVar("T")


def in_transaction(connection: BaseDatabaseWrapper) -> bool:
    """Tell whether a write would only take effect with a transaction; a TestCase's own is none."""
    if connection.in_atomic_block:
        blocks = connection.atomic_blocks
        return not (blocks and getattr(blocks[0], "_from_testcase", False))
    return connection.connection is not None and not connection.get_autocommit()


def sqlite_loses_writes(alias: str) -> bool:
    """Tell whether two writers to this database can make each other fail at once."""
    connection = connections[alias]
    if connection.vendor != "sqlite":
        return False
    mode = connection.settings_dict.get("OPTIONS", {}).get("transaction_mode") or ""
    return str(mode).upper() not in {"IMMEDIATE", "EXCLUSIVE"}


class _Second:
    """A second connection beside one of Django's, closed with it."""

    def __init__(self, first: BaseDatabaseWrapper) -> None:
        self.wrapper = first.copy()
        self.wrapper.settings_dict["AUTOCOMMIT"] = True
        self.wrapper.settings_dict["ATOMIC_REQUESTS"] = False
        # Closed by a finalizer, which may run in any thread.
        self.wrapper.inc_thread_sharing()
        self._pid = os.getpid()
        driver = first.connection
        self._driver = weakref.ref(driver)
        # A pooled driver connection is handed back, not dropped, when Django closes it.
        self.brief = bool(first.settings_dict.get("OPTIONS", {}).get("pool"))
        if not self.brief:
            weakref.finalize(driver, self._let_go).atexit = False

    def serves(self, first: BaseDatabaseWrapper) -> bool:
        return self._driver() is first.connection and self._pid == os.getpid()

    def close(self) -> None:
        # A forked child must not say goodbye on its parent's socket.
        if self._pid == os.getpid():
            self.wrapper.close()

    def _let_go(self) -> None:
        """Close in a finalizer: where an event loop runs, Django's own close would refuse."""
        driver, self.wrapper.connection = self.wrapper.connection, None
        if driver is not None and self._pid == os.getpid():
            driver.close()


@contextmanager
def _swapped(wrappers: dict[str, BaseDatabaseWrapper]) -> Iterator[None]:
    before = {alias: connections[alias] for alias in wrappers}
    try:
        for alias, wrapper in wrappers.items():
            connections[alias] = wrapper
        yield
    finally:
        for alias, wrapper in before.items():
            connections[alias] = wrapper


class Detour:
    """Does the cache's database operations outside the caller's transaction.

    Args:
        model: The cache's quasi-model, for the database routers.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._local = threading.local()
        # A second connection would wait for the first one's transaction.
        self._has_one_writer = connections[self.write_alias].vendor == "sqlite"

    @property
    def write_alias(self) -> str:
        """The database that holds the cache's table."""
        # Each read asks, and most projects have no routers.
        return router.db_for_write(self._model) if router.routers else DEFAULT_DB_ALIAS

    @property
    def writable_now(self) -> bool:
        """Whether a write made now takes effect at once."""
        connection = connections[self.write_alias]
        return connection.vendor != "sqlite" or not in_transaction(connection)

    def run(self, work: Callable[..., T], *args: Any) -> T:
        """Do ``work``, whose database operations commit at once."""
        if self._has_one_writer and not router.routers:
            return work(*args)
        alias = self.write_alias
        first = connections[alias]
        second: _Second | None = None
        if in_transaction(first) and first.vendor != "sqlite" and first.connection is not None:
            second = self._second(first)
        swaps: dict[str, BaseDatabaseWrapper] = {}
        if second is not None:
            swaps[alias] = second.wrapper
        reader = router.db_for_read(self._model) if router.routers else alias
        if reader != alias:
            # A replica may not have the newest stamps yet.
            swaps[reader] = swaps.get(alias, first)
        if not swaps:
            return work(*args)
        with _swapped(swaps):
            return work(*args) if second is None else self._run_apart(second, alias, work, *args)

    def _run_apart(self, second: _Second, alias: str, work: Callable[..., T], *args: Any) -> T:
        done = False
        try:
            with transaction.atomic(using=alias):
                self._bound_waits(second.wrapper)
                result = work(*args)
            done = True
            return result
        finally:
            if second.brief or not done:
                second.close()

    @staticmethod
    def _bound_waits(connection: BaseDatabaseWrapper) -> None:
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
            elif connection.vendor == "mysql":
                seconds = LOCK_TIMEOUT_MS // 1000
                # Rows, and tables that are altered.
                cursor.execute(
                    f"SET innodb_lock_wait_timeout = {seconds}, lock_wait_timeout = {seconds}"
                )

    def _second(self, first: BaseDatabaseWrapper) -> _Second:
        second: _Second | None = getattr(self._local, "second", None)
        if second is None or not second.serves(first):
            if second is not None:
                second.close()
            second = self._local.second = _Second(first)
        return second

    def close(self) -> None:
        """Close this thread's second connection."""
        second: _Second | None = getattr(self._local, "second", None)
        if second is not None:
            self._local.second = None
            second.close()
