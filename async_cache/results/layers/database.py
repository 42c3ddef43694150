# ruff: noqa: D102  (the contract, in base.py, documents the operations)
"""Records as rows of a database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from django.db import DatabaseError, InterfaceError, connections, models

from async_cache.exceptions import StoreUnavailable
from async_cache.results.apart import settle
from async_cache.results.conf import get_results_settings
from async_cache.results.exceptions import RecordRejected
from async_cache.results.layers.base import Changed, Counts, Layer
from async_cache.results.layers.postgres_wire import PostgresWire
from async_cache.results.models import GroupSequence, TaskResult
from async_cache.results.records import (
    NO_RECORD,
    READY_STATES,
    NoRecord,
    Outcome,
    Record,
    in_call_order,
    outcome_of,
)
from async_cache.results.waiting.topics import Wire
from async_cache.signals import announce, entry_rejected

__all__ = ["DatabaseLayer", "get_database_layer"]

CHUNK: Final = 500
"""Ids of one query."""
NAMES_CHUNK: Final = 50
_JOB: Final = "async_cache.results"


@contextmanager
def _available() -> Iterator[None]:
    try:
        yield
    except (DatabaseError, InterfaceError) as error:
        raise StoreUnavailable(
            f"The database of the results failed: {error}. Where a table is missing: see that "
            '"async_cache.results" is in INSTALLED_APPS, and run `manage.py migrate`.'
        ) from error


class DatabaseLayer(Layer):
    """Rows of `TaskResult`; a purge, not an expiry, ends them.

    Args:
        using: The database; else the routers decide.
    """

    name = "database"

    def __init__(self, using: str | None = None) -> None:
        self.using = using

    @property
    def _rows(self) -> models.QuerySet[TaskResult]:
        alias = self._alias
        settle(alias)
        return TaskResult.objects.using(alias)

    @property
    def _alias(self) -> str:
        # The primary: a replica may not have the newest rows yet.
        return self.using or TaskResult.objects.connection_for_write().alias

    def save(self, record: Record, expires: float | None = None) -> bool:
        with _available():
            stored, known = TaskResult.objects.store_row(
                TaskResult.objects.row_of(record), self.using
            )
        return stored is not None or not known

    def save_many(self, records: Sequence[Record]) -> int:
        """Write records of different tasks in as few statements as possible.

        Returns:
            How many were not refused.
        """
        with _available():
            rows = [TaskResult.objects.row_of(record) for record in records]
            stored = TaskResult.objects.store_rows(rows, self.using)
        return len(rows) if stored is None else len(stored)

    def get_many(self, task_ids: Sequence[str]) -> list[Record | NoRecord]:
        found: dict[str, Record | NoRecord] = {}
        with _available():
            for start in range(0, len(task_ids), CHUNK):
                part = list(task_ids[start : start + CHUNK])
                for row in self._rows.filter(task_id__in=part).order_by():
                    found[row.task_id] = _open(row)
        return [found.get(task_id, NO_RECORD) for task_id in task_ids]

    def find(self, name_or_id: str) -> Record | NoRecord:
        with _available():
            row = self._rows.filter(task_id=name_or_id).order_by().first()
            if row is None:
                named = self._rows.filter(task_name=name_or_id)
                row = named.order_by("-date_done").first()
        return NO_RECORD if row is None else _open(row)

    def group(self, group_id: str) -> list[Record]:
        with _available():
            members = [_open(row) for row in self._rows.filter(group__in=[group_id]).order_by()]
        return in_call_order(record for record in members if record is not NO_RECORD)

    def count(self, group_id: str) -> Counts:
        return self._counts([group_id])[group_id]

    def reserve(self, group_id: str, n: int = 1) -> int:
        with _available():
            return GroupSequence.objects.reserve(group_id, n, self.using)

    def delete_group(self, group_id: str, tasks: bool = False) -> int:
        with _available():
            # Not by equality: with None that would be all rows without a group.
            members = self._rows.filter(group__in=[group_id]).order_by()
            number = members.delete()[0] if tasks else members.update(group=None, sequence=None)
            GroupSequence.objects.using(members.db).filter(group=group_id).delete()
        return number

    def forget(self, task_id: str) -> bool:
        with _available():
            return self._rows.filter(task_id=task_id).order_by().delete()[0] > 0

    @property
    def shared(self) -> bool:
        connection: Any = connections[self._alias]
        # Threads on a database in memory lock each other out.
        return connection.vendor != "sqlite" or not connection.is_in_memory_db()

    @property
    def tells(self) -> bool:
        return get_results_settings().notify and connections[self._alias].vendor == "postgresql"

    def open_wire(self) -> Wire | None:
        return PostgresWire.open(self._alias) if self.tells else None

    def changed(
        self, task_ids: Sequence[str], groups: Sequence[str], names: Sequence[str] = ()
    ) -> Changed:
        ready: dict[str, Record] = {}
        with _available():
            for start in range(0, len(task_ids), CHUNK):
                part = list(task_ids[start : start + CHUNK])
                rows = self._rows.filter(task_id__in=part, status__in=READY_STATES).order_by()
                found = map(_open, rows)
                ready |= {record.id: record for record in found if record is not NO_RECORD}
        counts = self._counts(groups) if groups else {}
        return Changed(ready, counts, self._ready_names(names))

    def _ready_names(self, names: Sequence[str]) -> frozenset[str]:
        """Return the names whose last row is ready; one query for many."""
        found: set[str] = set()
        with _available():
            for start in range(0, len(names), NAMES_CHUNK):
                rows, last = self._rows, models.Q()
                for name in names[start : start + NAMES_CHUNK]:
                    named = rows.filter(task_name=name).order_by("-date_done").values("pk")
                    last |= models.Q(pk=models.Subquery(named[:1]))
                ended = rows.filter(last, status__in=READY_STATES).order_by()
                found.update(map(str, ended.values_list("task_name", flat=True)))
        return frozenset(found)

    def _counts(self, groups: Sequence[str]) -> dict[str, Counts]:
        """Count by rank: the index of the groups holds it."""
        counts = {group: Counts(0, 0) for group in groups}
        with _available():
            ranked = self._rows.filter(group__in=list(groups)).order_by()
            for group, rank, number in ranked.values_list("group", "rank").annotate(
                number=models.Count("*")
            ):
                had, outcome = counts[str(group)], outcome_of(rank)
                if outcome is Outcome.SUCCEEDED:
                    counts[str(group)] = had._replace(successes=had.successes + number)
                elif outcome is Outcome.FAILED:
                    counts[str(group)] = had._replace(failures=had.failures + number)
        return counts


_layer: Final = DatabaseLayer()


def get_database_layer() -> Layer:
    """Return the layer over the database that the routers choose."""
    return _layer


def _open(row: TaskResult) -> Record | NoRecord:
    try:
        return row.to_record()
    except RecordRejected as error:
        announce(entry_rejected, job=_JOB, key=row.task_id, reason=str(error))
        return NO_RECORD
