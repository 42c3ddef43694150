"""Write what the events of Celery tell into the database, every few seconds.

::

    celery -A proj events --camera async_cache.monitor.Camera --frequency 2

Run one camera. Workers send events when started with ``-E``.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

import django
from celery import states
from celery.events.snapshot import Polaroid
from celery.utils.time import maybe_iso8601
from django.apps import apps
from django.db import DatabaseError, InterfaceError, connections, router
from django.utils import timezone

from async_cache import clock
from async_cache.monitor.conf import get_monitor_settings
from async_cache.monitor.moments import from_timestamp, now

if TYPE_CHECKING:
    from datetime import datetime

    from async_cache.monitor.models import TaskState, WorkerState

__all__ = ["Camera"]

logger = logging.getLogger("async_cache.monitor")

_APP: Final = "async_cache_monitor"

MAX_ROWS: Final = 50_000
"""Tasks that may wait for a database that does not answer; past them the oldest are dropped."""
TRY_SECONDS: Final = 5.0
"""Between two tries while the database does not answer."""
BATCH: Final = 1_000
"""Tasks of one write."""
MAX_TEXT: Final = 20_000


class Camera(Polaroid):
    """Takes snapshots of the state of the cluster.

    Attributes:
        worker_update_freq: Seconds between two writes of a worker's row.
    """

    # What has ended leaves the memory with each snapshot.
    clear_after = True
    worker_update_freq = 60.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not apps.ready:
            # A worker sets Django up, `celery events` does not.
            django.setup()
        self._workers_model: type[WorkerState] = apps.get_model(_APP, "WorkerState")
        self._tasks_model: type[TaskState] = apps.get_model(_APP, "TaskState")
        self._waiting: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._written: OrderedDict[str, float] = OrderedDict()
        self._workers: dict[str, tuple[int, float]] = {}
        self._retry_at = 0.0
        self._dropped = 0

    def on_shutter(self, state: Any) -> None:
        """Write what is new since the last snapshot."""
        heartbeats = {
            worker.hostname: worker.heartbeats[-1] if worker.heartbeats else None
            for worker in state.workers.values()
        }
        for task in state.tasks.values():
            self._note(task)
        if clock.monotonic() < self._retry_at:
            return
        try:
            self._write_workers(heartbeats)
            self._write_tasks()
        except (DatabaseError, InterfaceError) as error:
            self._retry_at = clock.monotonic() + TRY_SECONDS
            logger.warning(
                "The state of %d tasks waits for the database: %s.",
                len(self._waiting),
                type(error).__qualname__,
            )
            self._disconnect()

    def on_cleanup(self) -> None:
        """Hide and delete the rows of tasks that are older than the settings keep them."""
        kept = get_monitor_settings()
        manager = self._tasks_model.objects
        try:
            manager.expire_by_states([states.SUCCESS], kept.keep_succeeded)
            manager.expire_by_states(states.EXCEPTION_STATES, kept.keep_failed)
            manager.expire_by_states(states.UNREADY_STATES - {states.RETRY}, kept.keep_pending)
            deleted = manager.purge()
        except (DatabaseError, InterfaceError) as error:
            logger.warning("Old tasks were not deleted: %s.", type(error).__qualname__)
            self._disconnect()
        else:
            logger.debug("Deleted %d old tasks.", deleted)

    def cancel(self) -> None:
        """Take a last snapshot; its writing is not put off."""
        self._retry_at = 0.0
        super().cancel()

    def _disconnect(self) -> None:
        connections[router.db_for_write(self._tasks_model)].close()

    def _note(self, task: Any) -> None:
        """Let a task wait to be written, unless it was since its last event."""
        moment = task.timestamp or 0.0
        uuid = str(task.uuid)
        if self._written.get(uuid, -1.0) >= moment or not task.state:
            return
        self._remember(uuid, moment)
        held = self._waiting.get(uuid)
        if held is not None and held["tstamp"] > moment:
            return
        self._waiting[uuid] = self._row(task, moment)
        self._waiting.move_to_end(uuid)
        while len(self._waiting) > MAX_ROWS:
            self._waiting.popitem(last=False)
            self._dropped += 1
            if self._dropped == 1 or self._dropped % MAX_ROWS == 0:
                logger.error("The state of %d tasks was dropped.", self._dropped)

    def _remember(self, uuid: str, moment: float) -> None:
        self._written[uuid] = moment
        self._written.move_to_end(uuid)
        while len(self._written) > MAX_ROWS:
            self._written.popitem(last=False)

    def _row(self, task: Any, moment: float) -> dict[str, Any]:
        failed = task.state in states.EXCEPTION_STATES
        shows = self._shows(task.name)
        result = _error_type(task.exception) if failed else task.result if shows else None
        return {
            "state": str(task.state)[:64],
            "task_id": str(task.uuid)[:255],
            "name": None if task.name is None else str(task.name)[:200],
            "tstamp": moment,
            "args": _text(task.args) if shows else None,
            "kwargs": _text(task.kwargs) if shows else None,
            "eta": _moment(task.eta),
            "expires": _moment(task.expires),
            "result": _text(result),
            "traceback": _text(task.traceback),
            "runtime": task.runtime,
            "retries": int(task.retries or 0),
            "hostname": getattr(task.worker, "hostname", None),
        }

    def _shows(self, name: str | None) -> bool:
        """Tell whether arguments and values of a task may be kept, as results keep them."""
        if not self.app.conf.find_value_for_key("extended", "result"):
            return False
        # What its redact() would hide cannot be told in a text.
        return getattr(self.app.tasks.get(name or ""), "redact", None) is None

    def _write_workers(self, heartbeats: dict[str, float | None]) -> None:
        moment = clock.monotonic()
        due: dict[str, datetime | None] = {}
        for name, beat in heartbeats.items():
            known = self._workers.get(name)
            if known is None or moment - known[1] >= self.worker_update_freq:
                due[name] = None if beat is None else from_timestamp(beat)
        if due:
            for name, key in self._workers_model.objects.store(due).items():
                self._workers[name] = key, moment

    def _write_tasks(self) -> None:
        while self._waiting:
            batch = [self._waiting[uuid] for uuid in list(self._waiting)[:BATCH]]
            names = {row["hostname"] for row in batch if row["hostname"]} - self._workers.keys()
            if names:
                moment = clock.monotonic()
                for name, key in self._workers_model.objects.store(
                    dict.fromkeys(names, now())
                ).items():
                    self._workers[name] = key, moment
            self._tasks_model.objects.store([self._made(row) for row in batch])
            for row in batch:
                self._waiting.pop(row["task_id"], None)

    def _made(self, row: dict[str, Any]) -> TaskState:
        fields = {name: value for name, value in row.items() if name != "hostname"}
        worker = self._workers.get(row["hostname"])
        fields["tstamp"] = from_timestamp(row["tstamp"])
        return self._tasks_model(worker_id=None if worker is None else worker[0], **fields)


def _text(value: Any) -> str | None:
    return None if value is None else str(value).replace("\x00", "")[:MAX_TEXT]


def _error_type(text: Any) -> str | None:
    """Return the type of an error from its repr: its message may hold what is secret."""
    return None if text is None else str(text).partition("(")[0]


def _moment(value: Any) -> datetime | None:
    """Return a moment of an event; None for none, and for what is none."""
    if not value:
        return None
    try:
        moment = from_timestamp(value) if isinstance(value, int | float) else maybe_iso8601(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if moment is None or timezone.is_naive(moment) != timezone.is_naive(now()):
        return None if moment is None else from_timestamp(moment.timestamp())
    return moment
