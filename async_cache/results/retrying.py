"""Try a database operation again, when another try can succeed."""

from __future__ import annotations

import functools
import random
import sqlite3
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from django.db import (
    DEFAULT_DB_ALIAS,
    DatabaseError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    connections,
    transaction,
)
from django.db.backends.base.base import BaseDatabaseWrapper

__all__ = ["can_succeed", "ends_transaction", "is_blocked", "is_busy", "transaction_retry"]

T = TypeVar("T")

FIRST_PAUSE: Final = 0.01
"""Seconds before the second try, doubled for each further one, with jitter."""

# Unique violation; deadlock, lock timeout; serialization failure.
_UNIQUE: Final = {"23505", 1062}
_TIMEOUTS: Final = {"55P03", 1205}
_LOCKS: Final = {"40P01", *_TIMEOUTS}
_SNAPSHOT: Final = {"40001", 1213}  # MySQL rolls the whole transaction back after a deadlock.
_BUSY: Final = {5, 6}  # SQLite: the database, or a table of it, is locked.


def is_busy(error: BaseException) -> bool:
    """Tell whether SQLite refused because another connection holds the database."""
    number = getattr(error.__cause__, "sqlite_errorcode", None)
    return number is not None and number & 0xFF in _BUSY


def is_blocked(error: BaseException) -> bool:
    """Tell whether another transaction held a lock for longer than this one may wait."""
    return is_busy(error) or _code(error) in _TIMEOUTS


def ends_transaction(error: BaseException) -> bool:
    """Tell whether the whole transaction has to be done again: on MySQL after a deadlock."""
    return _code(error) in _SNAPSHOT


def _code(error: BaseException) -> object:
    cause = error.__cause__
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    if state is not None:
        return state
    arguments = getattr(cause, "args", ())
    return arguments[0] if arguments else None


def can_succeed(error: DatabaseError | InterfaceError, connection: BaseDatabaseWrapper) -> bool:
    """Tell whether the same operation may succeed on another try.

    A bad statement or value fails again. So does, inside a transaction, whatever has ended it: a
    lost connection, a serialization failure, a deadlock on MySQL.

    Args:
        error: What Django raised.
        connection: Where; inside a transaction its savepoint has been rolled back.
    """
    whole = not connection.in_atomic_block
    if isinstance(error.__cause__, sqlite3.Error):
        number = getattr(error.__cause__, "sqlite_errorcode", 0)
        unique = number in {sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY}
        return unique or is_busy(error)
    code = _code(error)
    if isinstance(error, IntegrityError):
        return code in _UNIQUE
    if code in _LOCKS:
        return True
    if code in _SNAPSHOT:
        return whole
    if isinstance(error, OperationalError | InterfaceError):
        return whole and not connection.is_usable()
    return False


def _alias(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> str:
    using = keywords.get("using")
    if using is not None:
        return str(using)
    owner = arguments[0] if arguments else None
    for_write = getattr(owner, "connection_for_write", None)
    return str(for_write().alias) if for_write is not None else DEFAULT_DB_ALIAS


def transaction_retry(max_retries: int = 1) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Decorate a function so that it is tried again after a database error that can pass.

    Inside a transaction each try has a savepoint, so what a failed one did is rolled back and the
    transaction goes on. The call may give ``exception_retry_count`` to override the number.

    Args:
        max_retries: Tries after the first one.
    """

    def decorate(function: Callable[..., T]) -> Callable[..., T]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> T:
            left = int(kwargs.pop("exception_retry_count", max_retries))
            alias = _alias(args, kwargs)
            pause = FIRST_PAUSE
            while True:
                connection = connections[alias]
                try:
                    if not connection.in_atomic_block:
                        return function(*args, **kwargs)
                    with transaction.atomic(using=alias):
                        return function(*args, **kwargs)
                except (DatabaseError, InterfaceError) as error:
                    if left <= 0 or not can_succeed(error, connection):
                        raise
                left -= 1
                if not connection.in_atomic_block:
                    connection.close_if_unusable_or_obsolete()
                time.sleep(pause * random.uniform(0.5, 1.5))
                pause *= 2

        return call

    return decorate
