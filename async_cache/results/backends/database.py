"""The result backend that writes rows: ``result_backend = "async-cache-db"``."""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final

from celery import states
from celery.backends.base import BaseBackend
from celery.result import result_from_tuple
from django.apps import apps
from django.db import InterfaceError, OperationalError, models, router

from async_cache import clock
from async_cache.results.apart import flush
from async_cache.results.backends.chords import call_body
from async_cache.results.backends.contents import ContentsMixin
from async_cache.results.backends.limits import warn_of_limits
from async_cache.results.purging import delete_batches
from async_cache.results.records import READY_STATES, Record
from async_cache.results.rows import to_text
from async_cache.results.utils import as_timedelta, from_timestamp, now

if TYPE_CHECKING:
    from async_cache.results.models import ChordCounter, GroupResult, TaskResult

__all__ = ["DatabaseBackend"]

CHUNK: Final = 500
"""Ids of one query."""
CHORD_LEASE: Final = 10.0
"""Seconds in which who takes the last part of a chord has called its body."""
CHORD_LOOK: Final = 0.2
"""Seconds between the looks of a part that comes again meanwhile."""


class _Model:
    """A model, found when first used: backends are made before the apps are ready."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, backend: object, owner: type) -> Any:
        return apps.get_model("async_cache_results", self._name)


class DatabaseBackend(ContentsMixin, BaseBackend):
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

    def __init__(
        self,
        app: Any,
        serializer: str | None = None,
        max_cached_results: int | None = None,
        accept: Any = None,
        expires: float | timedelta | None = None,
        expires_type: Any = None,
        url: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            app,
            serializer=serializer,
            max_cached_results=max_cached_results,
            accept=accept,
            expires=expires,
            expires_type=expires_type,
            url=url,
            **kwargs,
        )

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Tell whether another try can help: of a lost or locked database."""
        return isinstance(exc, OperationalError | InterfaceError)

    def on_backend_retryable_error(self, exc: BaseException) -> None:
        """Give up a connection that is lost."""
        connection = self.TaskModel.objects.connection_for_write()
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()

    # Tasks.

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        using: str | None = None,
        **kwargs: Any,
    ) -> Any:
        warn_of_limits(self, request)
        self.save(self.make_record(task_id, result, state, traceback, request), request, using)
        return result

    def save(self, record: Record, request: Any = None, using: str | None = None) -> bool:
        """Write the row of a record; survives the rollback of the caller's transaction.

        Returns:
            False when it was refused: a later state is stored.
        """
        row = self.make_row(record, request)
        stored, known = self.TaskModel.objects.store_row(row, using)
        return stored is not None or not known

    def make_row(self, record: Record, request: Any = None) -> dict[str, Any]:
        """Return the fields of a record's row."""
        return self.TaskModel.objects.make_row(
            content_type=record.content_type,
            content_encoding=record.content_encoding,
            task_id=record.id,
            result=to_text(record.value, record.content_encoding),
            status=record.state,
            traceback=record.traceback or None,
            meta=record.meta or None,
            periodic_task_name=_schedule(request),
            task_name=record.name or None,
            task_args=record.args or None,
            task_kwargs=record.kwargs or None,
            worker=record.worker or None,
            group=record.group or None,
            sequence=record.sequence,
            retries=record.retries,
            date_created=None,
            date_queued=None,
            date_started=None if record.started is None else from_timestamp(record.started),
            date_finished=None if record.finished is None else from_timestamp(record.finished),
        )

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

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        return self.load(task_id) or {
            "task_id": task_id,
            "status": states.PENDING,
            "result": None,
            "traceback": None,
            "children": [],
            "date_done": None,
        }

    def task_result_exists(self, task_id: str) -> bool:
        """Tell whether there is a row of the task, in whichever state."""
        return bool(self._rows(self.TaskModel).filter(task_id=task_id).exists())

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

    def apply_chord(self, header_result_args: Any, body: Any, **kwargs: Any) -> None:
        """Make the counter of a chord, before its header is sent."""
        self.ensure_chords_allowed()
        header = self.app.GroupResult(*header_result_args)
        parts = [result.as_tuple() for result in header]
        size = body.get("chord_size") or len(parts)
        self.CounterModel.objects.start(header.id, size, json.dumps(parts))

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:
        """Note that a part of a header has ended; the last one calls the body."""
        task_id, group_id = request.id, request.group
        if not task_id or not group_id:
            return
        app_backend = self.app.backend
        if not isinstance(app_backend, DatabaseBackend):
            # Bound to this task beside the app's backend, which made the chord and counts it.
            warn_of_limits(self, request)
            app_backend.on_chord_part_return(request, state, result, **kwargs)
            return
        counters = self.CounterModel.objects
        known = self._rows(self.TaskModel).filter(task_id=task_id, status__in=READY_STATES)
        if not known.exists():
            # A part that ignores its result: the body wants it nevertheless.
            self.store_result(task_id, result, state, request=request)
        counter = self._last_part(group_id, task_id)
        if counter is None:
            return
        call_body(self, group_id, json.loads(counter.sub_tasks), request)
        counters.finish(group_id)

    def _last_part(self, group_id: str, task_id: str) -> Any:
        """Return the chord's counter when the caller is to call the body."""
        counters = self.CounterModel.objects.using(router.db_for_write(self.CounterModel))
        end = clock.monotonic() + 2 * CHORD_LEASE
        while True:
            counter = self.CounterModel.objects.end_part(group_id, task_id, lease=CHORD_LEASE)
            if counter is not None or clock.monotonic() >= end:
                return counter
            if not counters.filter(group_id=group_id, date_called__isnull=False).exists():
                return None
            # Another calls the body. It may have been killed, and no part may come again.
            self._sleep(CHORD_LOOK)  # type: ignore[attr-defined]

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
