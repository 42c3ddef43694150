"""Which transactions the caller is in, work for after their commit, records that end with them.

A connection is in a transaction inside a user's ``atomic`` block; the blocks that `TestCase` opens
around a test are none. It also is while its autocommit is off by hand; Django promises no hook for
that commit, so `Transaction.hooks` is False and nothing is recorded.

Everything that is to end with a savepoint hangs on a hook in ``connection.run_on_commit``: Django
drops the hook with the savepoint, the transaction or the connection, and what hangs on it is gone
in the same moment, memory included. Nothing of Django is patched. The records themselves are found
through an attribute of the connection: connections belong to one thread or one task, so no lock is
needed and no other thread can meet a value that is not committed.

Coroutines have connections of their own. One that runs beneath a transaction (``async_to_sync`` in
a view) sees its records, but learns of the transaction itself only in its thread:
``await sync_to_async(current)()``.

What cannot be seen: savepoints in raw SQL, and a transaction begun in raw SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from django.db import Error, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.transaction import TransactionManagementError

from async_cache.entry import MISSING
from async_cache.hooks import Countdown, Ends, Hook, Root, in_transaction, manual, recordable
from async_cache.ledger import Held, active, ledger_of, live_ledgers

__all__ = ["Transaction", "active", "current", "held", "hold", "is_invalidated", "note_invalidated"]

MAX_HOOKS: Final = 10_000
"""Hooks of one connection; past it `Transaction.on_commit` refuses."""

_SQL: Final = {
    "postgresql": "SHOW transaction_isolation",
    "mysql": "SELECT @@transaction_isolation",
    "mariadb": "SELECT @@tx_isolation",
}


def current() -> Transaction | None:
    """Return the transaction this thread is in, over all its connections; None without one."""
    involved = [c for c in connections.all(initialized_only=True) if in_transaction(c)]
    return Transaction(involved) if involved else None


class Transaction:
    """The open transactions of one thread, taken together. For use at once, in that thread.

    Attributes:
        hooks: Whether all of them tell of their commit. False where autocommit is off by hand:
            `on_commit` raises, `on_any_commit` leaves that connection out, nothing is recorded.
    """

    __slots__ = ("_members", "hooks")

    def __init__(self, involved: Iterable[BaseDatabaseWrapper]) -> None:
        self._members = [(connection, Root(connection)) for connection in involved]
        self.hooks = not any(manual(connection) for connection, _ in self._members)

    def read_committed(self) -> bool:
        """Whether each of them reads what others commit meanwhile.

        Asks the database: one query a connection on PostgreSQL, MySQL and MariaDB. False
        elsewhere, and where a connection takes no query before it has rolled back.
        """
        return all(_read_committed(connection) for connection, _ in self._members)

    def on_commit(self, callback: Callable[[], object]) -> bool:
        """Call back once, when all of them have committed; for what needs every commit.

        Never after the rollback of one of them, or of a savepoint that was open at this call,
        made by ``atomic`` or by hand.

        Args:
            callback: Handles its own errors. One that gets out is logged by Django
                (``robust=True``): the user's commit has happened, and the other hooks must run.

        Returns:
            Whether it is registered: not when one of them is over or its connection is closed,
            nor past `MAX_HOOKS` hooks.

        Raises:
            TransactionManagementError: `hooks` is False.
        """
        if not self.hooks:
            raise TransactionManagementError(
                "Autocommit is off by hand: no hook tells of the commit. See Transaction.hooks."
            )
        for connection, root in self._members:
            if not root.open(connection) or len(connection.run_on_commit) >= MAX_HOOKS:
                return False
        countdown = Countdown(callback, len(self._members))
        for connection, root in self._members:
            Hook(connection, root, Ends.ANY_SAVEPOINT, countdown.commit)
        return True

    def on_any_commit(self, callback: Callable[[], object]) -> None:
        """Call back after the commit of each of them; for what may be repeated but not lost.

        An invalidation is of this kind: one database may commit what the other rolls back. A
        rollback, also of a savepoint of ``atomic``, takes the call of its connection away; of a
        savepoint made by hand it does not, as with Django's own hooks.

        Args:
            callback: As with `on_commit`.
        """
        for connection, root in self._members:
            if not manual(connection) and root.open(connection):
                Hook(connection, root, Ends.ATOMIC_SAVEPOINT, callback)


def note_invalidated(names: Iterable[str]) -> bool:
    """Record names of scopes as invalidated by this transaction; nothing outside one.

    What was held before for such a scope is not answered any more, unless a rollback takes this
    record away.

    Returns:
        Whether one of them is new: False means that each had been recorded before, on every
        connection, under savepoints that are still open or released.
    """
    names, new = tuple(names), False
    for connection in connections.all(initialized_only=True):
        if recordable(connection):
            new |= ledger_of(connection).note(connection, names)
    return new


def is_invalidated(names: Iterable[str]) -> bool:
    """Whether this transaction has invalidated one of these names, on any connection."""
    names = tuple(names)
    return any(ledger.noted(names) for ledger in live_ledgers())


def hold(entry_key: str, payload: object, scopes: Iterable[str] = ()) -> None:
    """Keep a value that this transaction has read, until a rollback or the end takes it.

    Nothing happens where its end could not be seen: outside a transaction, and where one of its
    connections is closed or has autocommit off by hand.

    Args:
        entry_key: Its key.
        payload: The value, in whatever form the caller wants it back.
        scopes: Names whose invalidation by this transaction ends it too.
    """
    transaction = current()
    if transaction is None or not transaction.hooks:
        return
    frames = []
    for connection, root in transaction._members:
        if not root.certain or not root.open(connection):
            return
        frame = ledger_of(connection).frame(connection, Ends.ANY_SAVEPOINT)
        if frame is None:
            return
        frames.append(frame)
    record = Held(payload, tuple(scopes), frames)
    for connection, _ in transaction._members:
        ledger_of(connection).keep(entry_key, record)


def held(entry_key: str) -> Any:
    """Return the value this transaction holds for a key, the newest that is left; else MISSING."""
    ledgers = live_ledgers()
    found = [record for ledger in ledgers if (record := ledger.newest(entry_key)) is not None]
    if not found:
        return MISSING
    newest = max(found, key=lambda record: record.serial)
    if any(ledger.noted(newest.scopes, since=newest.serial) for ledger in ledgers):
        return MISSING
    return newest.payload


def _read_committed(connection: BaseDatabaseWrapper) -> bool:
    vendor = "mariadb" if getattr(connection, "mysql_is_mariadb", False) else connection.vendor
    if connection.needs_rollback or connection.closed_in_transaction or vendor not in _SQL:
        return False
    try:
        with connection.cursor() as cursor:
            cursor.execute(_SQL[vendor])
            row = cursor.fetchone()
    except Error:
        return False  # A broken transaction: it will not commit.
    return row is not None and str(row[0]).replace("-", " ").lower() == "read committed"
