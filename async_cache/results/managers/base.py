"""What the managers of task and group results have in common."""

from __future__ import annotations

import warnings
from datetime import timedelta
from typing import TypeVar

from django.core.exceptions import ObjectDoesNotExist
from django.db import connections, models, router
from django.db.backends.base.base import BaseDatabaseWrapper

from async_cache.hooks import in_transaction
from async_cache.results.apart import settle
from async_cache.results.isolation import TxIsolationWarning, isolation_level
from async_cache.results.purging import delete_batches
from async_cache.results.utils import as_timedelta, now

__all__ = ["ResultManager"]

M = TypeVar("M", bound=models.Model)


class ResultManager(models.Manager[M]):
    """What the managers of task and group results have in common."""

    _last_id: str | None = None

    def connection_for_read(self) -> BaseDatabaseWrapper:
        """Return the connection that queries of this manager read from."""
        return connections[self.db]

    def connection_for_write(self) -> BaseDatabaseWrapper:
        """Return the connection that this manager writes to."""
        return connections[self._db or router.db_for_write(self.model)]

    def current_engine(self) -> str:
        """Return the dotted path of the database backend that is read from."""
        return str(self.connection_for_read().settings_dict["ENGINE"])

    def warn_if_repeatable_read(self) -> None:
        """Warn when one transaction would keep showing the rows of its first query.

        Asks the database: one small query on PostgreSQL, MySQL and MariaDB, none elsewhere.
        """
        connection = self.connection_for_read()
        level = isolation_level(connection)
        if level in {"repeatable read", "serializable"}:
            warnings.warn(
                f"The database {connection.alias!r} runs transactions at {level.upper()}: a result "
                "polled again inside one transaction never changes. Commit between polls, or set "
                "the isolation level to READ COMMITTED.",
                TxIsolationWarning,
                stacklevel=2,
            )

    def get_all_expired(self, expires: timedelta | float | None) -> models.QuerySet[M]:
        """Return the rows that were last saved longer ago than ``expires``; None is never."""
        if expires is None:
            return self.none()
        return self.filter(date_done__lt=now() - as_timedelta(expires))

    def delete_expired(self, expires: timedelta | float | None) -> int:
        """Delete the rows that were last saved longer ago than ``expires``, in batches.

        Returns:
            How many.
        """
        if expires is None:
            return 0
        alias = self.connection_for_write().alias
        before = now() - as_timedelta(expires)
        return delete_batches(self.model, alias, models.Q(), before).deleted

    def _find(self, **key: str) -> M:
        """Return the row of a key, or an unsaved instance of it."""
        connection = self.connection_for_read()
        inside = in_transaction(connection)
        settle(connection.alias)
        try:
            return self.get(**key)
        except ObjectDoesNotExist:
            (value,) = key.values()
            if inside and self._last_id == value:
                self.warn_if_repeatable_read()
            self._last_id = value
            return self.model(**key)
