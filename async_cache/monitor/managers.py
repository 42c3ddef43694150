"""The managers of workers and tasks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from django.db import NotSupportedError, connections, models, router

from async_cache.monitor import upsert
from async_cache.monitor.moments import now

if TYPE_CHECKING:
    from async_cache.monitor.models import TaskState, WorkerState

    _Workers = models.Manager[WorkerState]
    _Tasks = models.Manager[TaskState]
else:
    _Workers = _Tasks = models.Manager

__all__ = ["PURGE_BATCH", "TaskStateManager", "WorkerStateManager"]

BATCH: Final = 500
"""Rows of one statement."""
PURGE_BATCH: Final = 2_000


def _upsert(manager: models.Manager[Any], rows: Sequence[Any], key: str, fields: Any) -> None:
    """Write rows, those that are there already too, in few statements."""
    alias = router.db_for_write(manager.model)
    # MySQL finds the unique columns by itself, and refuses to be told.
    told = connections[alias].features.supports_update_conflicts_with_target
    manager.using(alias).bulk_create(
        rows,
        batch_size=BATCH,
        update_conflicts=True,
        update_fields=list(fields),
        unique_fields=[key] if told else None,
    )


class WorkerStateManager(_Workers):
    """The manager of `WorkerState`."""

    def store(self, heartbeats: Mapping[str, datetime | None]) -> dict[str, int]:
        """Write when workers were last heard of; return their keys by hostname."""
        rows = [self.model(hostname=name, last_heartbeat=at) for name, at in heartbeats.items()]
        _upsert(self, rows, "hostname", ["last_heartbeat"])
        alias = router.db_for_write(self.model)
        found = self.using(alias).filter(hostname__in=list(heartbeats)).order_by()
        return dict(found.values_list("hostname", "pk"))

    def purge(self, expires: timedelta | float, moment: datetime | None = None) -> int:
        """Delete the workers that have not been heard of for some time; return how many.

        Args:
            expires: For how long, as a timedelta or in seconds.
            moment: What counts as now.
        """
        age = expires if isinstance(expires, timedelta) else timedelta(seconds=expires)
        alias = router.db_for_write(self.model)
        silent = self.using(alias).filter(last_heartbeat__lte=(moment or now()) - age).order_by()
        return silent.delete()[1].get(self.model._meta.label, 0)


class TaskStateManager(_Tasks):
    """The manager of `TaskState`."""

    def store(self, rows: Sequence[TaskState]) -> None:
        """Write the rows of different tasks; a newer state of a task stays, and what was known.

        Raises:
            NotSupportedError: The database is not PostgreSQL, MySQL, MariaDB or SQLite.
        """
        alias = router.db_for_write(self.model)
        if not upsert.supports(alias):
            raise NotSupportedError("The states of tasks cannot be kept in this database.")
        upsert.write(self.model, alias, rows, BATCH)

    def active(self) -> models.QuerySet[TaskState]:
        """Return the tasks that are not hidden."""
        return self.filter(hidden=False)

    def expired(
        self,
        states: Collection[str],
        expires: timedelta | float,
        moment: datetime | None = None,
    ) -> models.QuerySet[TaskState]:
        """Return the tasks in some states whose last event is old.

        Args:
            states: Which states.
            expires: How old, as a timedelta or in seconds.
            moment: What counts as now.
        """
        age = expires if isinstance(expires, timedelta) else timedelta(seconds=expires)
        return self.filter(state__in=list(states), tstamp__lte=(moment or now()) - age)

    def expire_by_states(
        self,
        states: Collection[str],
        expires: timedelta | float | None,
        moment: datetime | None = None,
        limit: int | None = None,
    ) -> int:
        """Hide the tasks in some states whose last event is old; return how many.

        Args:
            states: Which states.
            expires: How old; None hides none.
            moment: What counts as now.
            limit: Hide so many at most; None hides all in one statement.
        """
        if expires is None:
            return 0
        alias = router.db_for_write(self.model)
        old = self.expired(states, expires, moment).filter(hidden=False).order_by().using(alias)
        if limit is None:
            return old.update(hidden=True)
        keys = list(old.values_list("pk", flat=True)[:limit])
        return self.using(alias).filter(pk__in=keys).update(hidden=True) if keys else 0

    def purge(self) -> int:
        """Delete the hidden tasks, in batches that are short transactions; return how many."""
        hidden = self.using(router.db_for_write(self.model)).filter(hidden=True).order_by()
        deleted = 0
        while keys := list(hidden.values_list("pk", flat=True)[:PURGE_BATCH]):
            # By key, and from one table only: nothing refers to these rows.
            deleted += self.using(hidden.db).filter(pk__in=keys)._raw_delete(hidden.db)
        return deleted
