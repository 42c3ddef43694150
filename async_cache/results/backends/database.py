"""The result backend that writes rows: ``result_backend = "async-cache-db"``."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from celery.backends.base import BaseBackend
from celery.result import result_from_tuple
from django.apps import apps
from django.db import InterfaceError, OperationalError, models, router, transaction

from async_cache.results import notices
from async_cache.results.apart import flush, run_apart
from async_cache.results.backends.chords import ChordsMixin, call_body, part_ids
from async_cache.results.purging import delete_batches
from async_cache.results.records import READY_STATES, Record
from async_cache.results.retrying import transaction_retry
from async_cache.results.utils import as_timedelta, now

if TYPE_CHECKING:
    from async_cache.results.models import ChordCounter, GroupResult, TaskResult

__all__ = ["DatabaseBackend"]

logger = logging.getLogger("async_cache.results")

CHUNK: Final = 500
"""Ids of one query."""


class _Model:
    """A model, found when first used: backends are made before the apps are ready."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, backend: object, owner: type) -> Any:
        return apps.get_model("async_cache_results", self._name)


class _End(NamedTuple):
    """The transaction in which the part of a chord ends.

    Attributes:
        alias: The database of the tasks' rows.
        rows: Those written in it.
        errbacks: What is to be called after it.
    """

    alias: str
    rows: list[Any]
    errbacks: list[tuple[Any, Any, Any]]


_end: ContextVar[_End | None] = ContextVar("async_cache_end_of_part", default=None)


class DatabaseBackend(ChordsMixin, BaseBackend):
    """A result backend of Celery over `TaskResult`, `GroupResult` and the rows of chords.

    It is the backend of the app (``result_backend = "async-cache-db"``), or one beside the app's,
    returned by the ``backend`` property of single tasks and given to
    ``AsyncResult(id, backend=…)``. In the second case groups and chords of the app look for results
    in the app's backend only: ``GroupResult.get()`` does not find those of such tasks, chords find
    them where the app's backend is Redis, and an ``AsyncResult`` of Celery's canvas does not know
    of this backend. `BackendLimitWarning` tells of it; `WriteThroughBackend` has no such limits.

    Args:
        app: The Celery app.
        serializer: One of Celery's; ``result_serializer`` by default. Pickle is sealed.
        max_cached_results: Results kept in this process.
        accept: Content types that are read besides the serializer's own.
        expires: Age at which `cleanup` deletes rows: seconds or a timedelta.
        expires_type: Type the age is turned into.
        url: Not used; the routers choose the database.
    """

    kind = "database"
    subpolling_interval = 0.5
    supports_native_join = True
    supports_autoexpire = False

    if TYPE_CHECKING:
        TaskModel: ClassVar[type[TaskResult]]
        GroupModel: ClassVar[type[GroupResult]]
        CounterModel: ClassVar[type[ChordCounter]]
        PartModel: ClassVar[type[models.Model]]
    else:
        TaskModel = _Model("TaskResult")
        GroupModel = _Model("GroupResult")
        CounterModel = _Model("ChordCounter")
        PartModel = _Model("ChordPart")

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Tell whether another try can help: of a lost or locked database."""
        return isinstance(exc, OperationalError | InterfaceError)

    def on_backend_retryable_error(self, exc: BaseException) -> None:
        """Give up a connection that is lost."""
        connection = self.TaskModel.objects.connection_for_write()
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()

    # Tasks.

    def save(self, record: Record, request: Any = None, using: str | None = None) -> bool:
        """Write the row of a record; survives the rollback of the caller's transaction.

        Returns:
            False when it was refused: a later state is stored.
        """
        row = self.make_row(record, request)
        alias = using or self.TaskModel.objects.connection_for_write().alias
        end = _end.get()
        if end is not None and end.alias == alias:
            # The body of a chord that fails, in the transaction of the chord's last part.
            return self._write(row, end)
        stored, known = self.TaskModel.objects.store_row(row, alias)
        return stored is not None or not known

    def make_row(self, record: Record, request: Any = None) -> dict[str, Any]:
        """Return the fields of a record's row."""
        row: dict[str, Any] = self.TaskModel.objects.row_of(record, _schedule(request))
        return row

    def _rows(self, model: Any) -> Any:
        # The primary: a replica may not have the newest rows yet.
        connection = model._default_manager.connection_for_write()
        if connection.vendor == "sqlite" and not connection.in_atomic_block:
            # What this process stored during its last transaction may be on its way.
            flush()
        return model._base_manager.using(connection.alias)

    def load(self, task_id: str) -> dict[str, Any] | None:
        """Return the meta of a task; None when it has no row."""
        row = self._rows(self.TaskModel).filter(task_id=task_id).first()
        return None if row is None else self.meta_of(row.to_record())

    def load_ready(self, task_ids: Collection[str]) -> dict[str, dict[str, Any]]:
        """Return the meta of those tasks that have ended, by id."""
        wanted, found = list(task_ids), {}
        for start in range(0, len(wanted), CHUNK):
            part = wanted[start : start + CHUNK]
            rows = self._rows(self.TaskModel).filter(task_id__in=part, status__in=READY_STATES)
            found.update({row.task_id: self.meta_of(row.to_record()) for row in rows})
        return found

    def _forget(self, task_id: str) -> None:
        self._rows(self.TaskModel).filter(task_id=task_id).delete()

    # Groups.

    def _save_group(self, group_id: str, result: Any) -> Any:
        content_type, encoding, text = self.encode_content(result.as_tuple())
        self.GroupModel.objects.store_group_result(content_type, encoding, group_id, text)
        return result

    def _restore_group(self, group_id: str) -> dict[str, Any] | None:
        row = self._rows(self.GroupModel).filter(group_id=group_id).first()
        if row is None:
            return None
        stored = self.decode_content(row, row.result)
        return {
            "task_id": group_id,
            "result": result_from_tuple(stored, self.app),
            "date_done": row.date_done,
        }

    def _delete_group(self, group_id: str) -> None:
        self._rows(self.GroupModel).filter(group_id=group_id).delete()

    # Chords.

    def start_chord(self, group_id: str, size: int, parts: list[Any]) -> None:
        """Make the counter of a chord, before its header is sent."""
        self.CounterModel.objects.start(group_id, size, json.dumps(parts))

    def end_part(self, record: Record, request: Any) -> None:
        """Write a part's row and count it in one transaction; the last one calls the body in it."""
        row, end = self.make_row(record, request), _end.get()
        if end is not None:
            # A chain ends within an outer chord, since its inner chord fails.
            self._count(row, request, end)
            return
        alias = self.TaskModel.objects.connection_for_write().alias
        end = run_apart(alias, lambda: self._end_part(row, request, using=alias), later=False)
        notices.tell(alias, end.rows)
        for errback in end.errbacks:
            self._call_late(*errback)

    @transaction_retry(max_retries=2)
    def _end_part(self, row: dict[str, Any], request: Any, *, using: str) -> _End:
        end = _End(using, [], [])
        token = _end.set(end)
        try:
            with transaction.atomic(using=using):
                self._count(row, request, end)
        finally:
            _end.reset(token)
        return end

    def _count(self, row: dict[str, Any], request: Any, end: _End) -> None:
        counters, where = self.CounterModel.objects, router.db_for_write(self.CounterModel)
        self._write(row, end)
        # Of two databases that of the counters commits first: what is counted twice counts once.
        with transaction.atomic(using=where, savepoint=False):
            counter = counters.end_part(request.group, row["task_id"], where)
            if counter is None:
                return
            parts = json.loads(counter.sub_tasks)
            ids = part_ids(parts, self.app)
            call_body(self, parts, lambda: self.load_ready(ids), request)
            counters.finish(request.group, where)

    def _write(self, row: dict[str, Any], end: _End) -> bool:
        written = self.TaskModel.objects.write_rows([row], end.alias)
        end.rows.extend(written)
        return bool(written)

    def _call_task_errbacks(self, request: Any, exc: Any, traceback: Any) -> None:
        end = _end.get()
        if end is None:
            super()._call_task_errbacks(request, exc, traceback)  # type: ignore[misc]
        else:
            # The project's own code, which may take its time: not while rows are locked.
            end.errbacks.append((request, exc, traceback))

    def _call_late(self, request: Any, exc: Any, traceback: Any) -> None:
        try:
            self._call_task_errbacks(request, exc, traceback)
        except Exception:
            # The chord has failed already, and its last part may have succeeded.
            logger.exception("An errback of the chord's body %s failed.", request.id)

    # Age.

    def cleanup(self) -> None:
        """Delete the rows that are older than ``expires``, in batches; 0 and None are never."""
        if not self.expires:
            return
        self.TaskModel.objects.delete_expired(self.expires)
        self.GroupModel.objects.delete_expired(self.expires)
        before = now() - as_timedelta(self.expires)
        alias = self.TaskModel.objects.connection_for_write().alias
        for model in (self.CounterModel, self.PartModel):
            delete_batches(model, alias, models.Q(), before, field="date_created")


def _schedule(request: Any) -> str | None:
    """Return the name of the schedule that a message names."""
    name = getattr(request, "periodic_task_name", None)
    if name is None:
        name = (getattr(request, "properties", None) or {}).get("periodic_task_name")
    return None if name is None else str(name)
