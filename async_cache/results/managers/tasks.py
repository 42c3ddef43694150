"""The manager of the results of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypedDict, TypeVar, Unpack

from django.db import models

from async_cache.results import notices
from async_cache.results.apart import run_apart
from async_cache.results.managers.base import ResultManager
from async_cache.results.records import READY_STATES, Record, rank
from async_cache.results.retrying import transaction_retry
from async_cache.results.rows import refuse_id, storable, to_text
from async_cache.results.upsert import Rules, upsert_many
from async_cache.results.utils import from_timestamp, now

__all__ = ["TASK_RULES", "Details", "TaskResultManager"]

M = TypeVar("M", bound=models.Model)

TASK_RULES: Final = Rules(
    key="task_id",
    rank="rank",
    first=frozenset({"date_created", "hidden"}),
    keep=frozenset(
        {
            "task_name",
            "task_args",
            "task_kwargs",
            "periodic_task_name",
            "worker",
            "group",
            "sequence",
            "date_queued",
            "date_started",
        }
    ),
    latest=frozenset({"date_done"}),
)
# Large, and known to the caller: the answer to a write does not send them back.
_LARGE: Final = frozenset({"result", "traceback", "meta"})


class Details(TypedDict, total=False):
    """What `TaskResultManager.store_result` may be told besides.

    Attributes:
        group: The result group it belongs to.
        sequence: Its place in the group.
        retries: Attempts before this one.
        date_created: When the task was made; now unless given.
        date_queued: When it was sent.
        date_started: When this attempt began.
        date_finished: When it ended; now for a state that is an end, unless given.
    """

    group: str | None
    sequence: int | None
    retries: int
    date_created: datetime | None
    date_queued: datetime | None
    date_started: datetime | None
    date_finished: datetime | None


_DETAILS: Final = Details(
    group=None,
    sequence=None,
    retries=0,
    date_created=None,
    date_queued=None,
    date_started=None,
    date_finished=None,
)


class TaskResultManager(ResultManager[M]):
    """The manager of `TaskResult`."""

    @transaction_retry(max_retries=1)
    def get_task(self, task_id: str) -> M:
        """Return the result of a task; an unsaved instance, PENDING, when there is none.

        Args:
            task_id: Its id.
        """
        return self._find(task_id=task_id)

    def store_result(
        self,
        content_type: str,
        content_encoding: str,
        task_id: str,
        result: str | None,
        status: str,
        traceback: str | None = None,
        meta: str | None = None,
        periodic_task_name: str | None = None,
        task_name: str | None = None,
        task_args: str | None = None,
        task_kwargs: str | None = None,
        worker: str | None = None,
        using: str | None = None,
        *,
        exception_retry_count: int = 2,
        **details: Unpack[Details],
    ) -> M:
        """Store the state and the result of a task, unless a later state is stored already.

        One statement on SQLite, PostgreSQL and MariaDB. The row survives the rollback of the
        caller's transaction. What is None here and known from before (name, arguments, worker,
        group, start) is kept.

        Args:
            content_type: MIME type of ``result`` and ``meta``.
            content_encoding: Their encoding: ``utf-8`` or ``binary``.
            task_id: Id of the task.
            result: The serialized value or error.
            status: One of Celery's states, or the project's own.
            traceback: Text, of a failed task.
            meta: Serialized, such as the children.
            periodic_task_name: Name of the schedule that started it.
            task_name: Name of the task.
            task_args: Text of its arguments.
            task_kwargs: Text of its keywords.
            worker: Who runs it.
            using: The database; else the routers decide.
            exception_retry_count: Further tries after a database error that can pass.
            **details: Group, attempt and times; see `Details`.

        Returns:
            The stored row. When the write was refused, the one that was there before.

        Raises:
            UnstorableValue: The task's or the group's id is longer than its column.
        """
        row = self.make_row(
            content_type=content_type,
            content_encoding=content_encoding,
            task_id=task_id,
            result=result,
            status=status,
            traceback=traceback,
            meta=meta,
            periodic_task_name=periodic_task_name,
            task_name=task_name,
            task_args=task_args,
            task_kwargs=task_kwargs,
            worker=worker,
            **details,
        )
        stored, known = self.store_row(row, using, exception_retry_count)
        return self._row_of(row, using, known) if stored is None else stored

    def _row_of(self, row: Mapping[str, Any], using: str | None, known: bool) -> M:
        """Return what is stored in place of a row that was refused, or waits to be written."""
        found = None
        if known:
            alias = using or self.connection_for_write().alias
            found = self.using(alias).filter(task_id=row["task_id"]).first()
        return self.model(**row) if found is None else found

    def row_of(self, record: Record, periodic_task_name: str | None = None) -> dict[str, Any]:
        """Return the fields of a record's row, complete.

        Raises:
            UnstorableValue: An id is longer than its column.
        """
        times = {
            f"date_{name}": None if moment is None else from_timestamp(moment)
            for name, moment in (
                ("created", record.created),
                ("queued", record.queued),
                ("started", record.started),
                ("finished", record.finished),
            )
        }
        return self.make_row(
            content_type=record.content_type,
            content_encoding=record.content_encoding,
            task_id=record.id,
            result=to_text(record.value, record.content_encoding) if record.value else None,
            status=record.state,
            traceback=record.traceback or None,
            meta=record.meta or None,
            periodic_task_name=periodic_task_name,
            task_name=record.name or None,
            task_args=record.args or None,
            task_kwargs=record.kwargs or None,
            worker=record.worker or None,
            group=record.group or None,
            sequence=record.sequence,
            retries=record.retries,
            **times,
        )

    def make_row(self, **values: Any) -> dict[str, Any]:
        """Return the fields of a row, complete: times, rank, names cut to their columns."""
        moment = now()
        row: dict[str, Any] = {**_DETAILS, **values}
        row["date_created"] = row.get("date_created") or moment
        row["date_done"] = moment
        if row["status"] not in READY_STATES:
            row["date_finished"] = None
        elif row.get("date_finished") is None:
            row["date_finished"] = moment
        row["rank"] = rank(row["retries"], row["status"])
        row["hidden"] = False
        for name in ("task_id", "group"):
            refuse_id(name, row[name], self._length(name))
        for name in ("traceback", "task_args", "task_kwargs"):
            if row[name] is not None:
                row[name] = storable(row[name])
        for name in ("task_name", "periodic_task_name", "worker"):
            if row[name] is not None:
                row[name] = storable(row[name])[: self._length(name)]
        return row

    def store_row(
        self, row: Mapping[str, Any], using: str | None = None, retries: int = 2
    ) -> tuple[M | None, bool]:
        """Write one row that `make_row` made.

        Returns:
            The stored row, None when there is none; and whether the outcome is known: a write that
            waits for the end of a transaction has none yet.
        """
        answer = self.store_rows([row], using, retries)
        if answer is None:
            return None, False
        return (answer[0] if answer else None), True

    def store_rows(
        self, rows: Sequence[Mapping[str, Any]], using: str | None = None, retries: int = 2
    ) -> list[M] | None:
        """Write rows that `make_row` made, of different tasks, in as few statements as possible.

        Returns:
            Those that were not refused; None when the writes wait for the end of a transaction.
        """
        alias = using or self.connection_for_write().alias
        return run_apart(
            alias,
            lambda: self._upsert(rows, using=alias, exception_retry_count=retries),
            then=lambda stored: notices.tell(alias, stored),
        )

    @transaction_retry(max_retries=2)
    def _upsert(self, rows: Sequence[Mapping[str, Any]], *, using: str) -> list[M]:
        return self.write_rows(rows, using)

    def write_rows(self, rows: Sequence[Mapping[str, Any]], using: str) -> list[M]:
        """Write rows that `make_row` made as part of the caller's transaction.

        Returns:
            Those that were not refused.
        """
        if not rows:
            return []
        small = [
            field.attname
            for field in self.model._meta.concrete_fields
            if field.attname not in _LARGE
            # What was not given may be stored from before: read when it is asked for.
            and (field.attname not in {"task_args", "task_kwargs"})
        ]
        given = {row["task_id"]: row for row in rows}
        place = small.index("task_id")
        stored = []
        also = notices.unheard(using, rows)
        for values in upsert_many(self.model, using, TASK_RULES, rows, small, also):
            unheard = bool(values.pop()) if also else False
            row = given[values[place]]
            known = {name: row[name] for name in _LARGE}
            known |= {n: row[n] for n in ("task_args", "task_kwargs") if row[n] is not None}
            made = self._instance(using, dict(zip(small, values, strict=True)) | known)
            made.unheard = unheard  # type: ignore[attr-defined]
            stored.append(made)
        return stored

    def _instance(self, using: str, values: Mapping[str, Any]) -> M:
        # The order of the fields counts.
        names = [f.attname for f in self.model._meta.concrete_fields if f.attname in values]
        return self.model.from_db(using, names, [values[name] for name in names])

    def _length(self, name: str) -> int | None:
        length: int | None = self.model._meta.get_field(name).max_length  # type: ignore[union-attr]
        return length
