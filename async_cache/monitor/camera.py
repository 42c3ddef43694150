"""Write what the events of Celery tell into the database, every few seconds.

::

    celery -A proj events --camera async_cache.monitor.Camera --frequency 2

Run one camera. Workers send events when started with ``-E``.
"""

from __future__ import annotations

import logging
import re
import signal
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import django
from celery import states
from celery.events.snapshot import Polaroid
from celery.utils.time import maybe_iso8601
from django.apps import apps
from django.db import DatabaseError, DataError, InterfaceError, connections, router
from django.utils import timezone

from async_cache import clock
from async_cache.monitor.conf import get_monitor_settings
from async_cache.monitor.managers import PURGE_BATCH
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
MAX_ID: Final = 255
MAX_RETRIES: Final = 2**31 - 1
MAX_WORKERS: Final = 10_000
"""Workers whose keys are remembered."""
FIRST_CLEANUP: Final = 30.0
"""Seconds from the start to the first deletion of old tasks."""

_CALL: Final = re.compile(r"[^\W\d][\w.]*(?=\()")
"""The name of the type in the repr of most errors."""

_FAILED: Final = frozenset(states.EXCEPTION_STATES) | {states.REJECTED}


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
        # The tasks say what of them is redacted; a worker imports them, `celery events` does not.
        self.app.loader.import_default_modules()
        # What came while a snapshot was being written must be there at the next.
        tasks: Any = getattr(self.state, "tasks")  # noqa: B009 - unknown to its type stubs
        tasks.limit = max(tasks.limit or 0, MAX_ROWS)
        self._waiting: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._seen: OrderedDict[str, tuple[float, bool]] = OrderedDict()
        self._heartbeats: dict[str, float | None] = {}
        self._workers: dict[str, tuple[int, float]] = {}
        self._capturing = threading.Lock()
        self._retry_at = 0.0
        self._dropped = 0

    def on_shutter(self, state: Any) -> None:
        """Note what is new since the last snapshot: no event is taken in meanwhile."""
        for worker in state.workers.values():
            if worker.heartbeats:
                self._heartbeats[worker.hostname] = worker.heartbeats[-1]
            else:
                self._heartbeats.setdefault(worker.hostname, None)
        for task in state.tasks.values():
            self._note(task)

    def capture(self) -> None:
        """Take a snapshot; write it while events are taken in again."""
        # The last snapshot is not taken by the thread of the others.
        with self._capturing:
            super().capture()
            if clock.monotonic() >= self._retry_at:
                self._write()

    def _write(self) -> None:
        try:
            self._write_workers()
            self._write_tasks()
        except (DatabaseError, InterfaceError) as error:
            self._retry_at = clock.monotonic() + TRY_SECONDS
            # Their rows may be gone when the database is back.
            self._workers.clear()
            logger.warning(
                "The state of %d tasks waits for the database: %s.",
                len(self._waiting),
                type(error).__qualname__,
            )
            self._disconnect()

    def on_cleanup(self) -> None:
        """Delete the rows of tasks, and of workers, that are older than the settings keep them."""
        kept = get_monitor_settings()
        deleted = 0
        try:
            deleted += self._clean([states.SUCCESS], kept.keep_succeeded)
            deleted += self._clean(_FAILED, kept.keep_failed)
            # Events of a project's own give tasks states of its own; no end of these was heard.
            known = self._tasks_model.objects.order_by().values_list("state", flat=True).distinct()
            pending = set(known) - _FAILED - {states.SUCCESS}
            deleted += self._clean(pending, kept.keep_pending)
            ages = kept.keep_succeeded, kept.keep_failed, kept.keep_pending
            if None not in ages and self._workers_model.objects.purge(
                max(age for age in ages if age is not None)
            ):
                # Their tasks are gone; hosts that get a new name at each start would pile up.
                self._workers.clear()
        except (DatabaseError, InterfaceError) as error:
            logger.warning("Old tasks were not deleted: %s.", type(error).__qualname__)
            self._disconnect()
        else:
            logger.debug("Deleted %d old tasks.", deleted)

    def _clean(self, chosen: Collection[str], seconds: float | None) -> int:
        manager = self._tasks_model.objects
        deleted = manager.purge()
        while manager.expire_by_states(chosen, seconds, limit=PURGE_BATCH):
            deleted += manager.purge()
            # An hour's rows take longer than the time between two snapshots.
            self.capture()
        return deleted

    def install(self) -> None:
        """Begin: take a snapshot at times; clean up soon, and then at times."""
        super().install()
        self.timer.call_after(FIRST_CLEANUP, self.cleanup)
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            # `celery events` would die of it at once, with what has not been written.
            signal.signal(signal.SIGTERM, _end)

    def cancel(self) -> None:
        """Take a last snapshot; its writing is not put off."""
        super().cancel()
        self._retry_at = 0.0
        self.capture()

    def _disconnect(self) -> None:
        connections[router.db_for_write(self._tasks_model)].close()

    def _note(self, task: Any) -> None:
        """Let a task wait to be written, unless nothing has come since it was noted."""
        moment, uuid = task.timestamp or 0.0, str(task.uuid)
        if not task.state or _text(uuid, MAX_ID) != uuid:
            return
        ended = task.state in states.READY_STATES
        seen = self._seen.get(uuid)
        # Clocks of hosts differ: an end counts even where it seems to come before the beginning.
        if seen is not None and not (moment > seen[0] or (ended and not seen[1])):
            self._seen.move_to_end(uuid)
            return
        self._seen[uuid] = moment, ended
        self._seen.move_to_end(uuid)
        while len(self._seen) > 2 * MAX_ROWS:
            self._seen.popitem(last=False)
        try:
            self._waiting[uuid] = self._row(task, moment)
        except (TypeError, ValueError, OverflowError, OSError) as error:
            logger.warning("An event of a task makes no sense: %s.", type(error).__qualname__)
            return
        self._waiting.move_to_end(uuid)
        while len(self._waiting) > MAX_ROWS:
            self._waiting.popitem(last=False)
            self._dropped += 1
            if self._dropped == 1 or self._dropped % MAX_ROWS == 0:
                logger.error("The state of %d tasks was dropped.", self._dropped)

    def _row(self, task: Any, moment: float) -> dict[str, Any]:
        failed = task.state in states.EXCEPTION_STATES
        shows = self._shows(task.name)
        result = _error_type(task.exception) if failed else task.result if shows else None
        return {
            "state": _text(task.state, 64),
            "task_id": str(task.uuid),
            "name": _text(task.name, 200),
            "tstamp": from_timestamp(moment),
            "args": _text(task.args) if shows else None,
            "kwargs": _text(task.kwargs) if shows else None,
            "eta": _moment(task.eta),
            "expires": _moment(task.expires),
            "result": _text(result),
            "traceback": _text(task.traceback),
            "runtime": None if task.runtime is None else float(task.runtime),
            "retries": max(0, min(int(task.retries or 0), MAX_RETRIES)),
            "hostname": _text(getattr(task.worker, "hostname", None), MAX_ID),
        }

    def _shows(self, name: str | None) -> bool:
        """Tell whether arguments and values of a task may be kept, as results keep them."""
        if not self.app.conf.find_value_for_key("extended", "result"):
            return False
        # What its redact() would hide cannot be told in a text, nor whether an unknown one has it.
        task = self.app.tasks.get(name or "")
        return task is not None and getattr(task, "redact", None) is None

    def _write_workers(self) -> None:
        moment = clock.monotonic()
        due: dict[str, datetime | None] = {}
        for hostname, beat in self._heartbeats.items():
            name = _text(hostname, MAX_ID) or ""
            known = self._workers.get(name)
            if known is None or moment - known[1] >= self.worker_update_freq:
                # Who says goodbye has been heard of as well.
                due[name] = (None if beat is None else _moment(beat)) or now()
        self._store_workers(due)
        self._heartbeats.clear()

    def _store_workers(self, due: Mapping[str, datetime | None]) -> None:
        if not due:
            return
        moment = clock.monotonic()
        if len(self._workers) + len(due) > MAX_WORKERS:
            self._workers.clear()
        for name, key in self._workers_model.objects.store(due).items():
            self._workers[name] = key, moment

    def _write_tasks(self) -> None:
        while self._waiting:
            batch = [self._waiting[uuid] for uuid in islice(self._waiting, BATCH)]
            names = {row["hostname"] for row in batch if row["hostname"]} - self._workers.keys()
            self._store_workers(dict.fromkeys(names, now()))
            try:
                self._tasks_model.objects.store([self._made(row) for row in batch])
            except DataError:
                self._write_apart(batch)
            for row in batch:
                self._waiting.pop(row["task_id"], None)

    def _write_apart(self, batch: list[dict[str, Any]]) -> None:
        """Write each task by itself: one that the database refuses must not hold up the others."""
        for row in batch:
            try:
                self._tasks_model.objects.store([self._made(row)])
            except DataError as error:
                logger.warning("The state of a task cannot be kept: %s.", type(error).__qualname__)

    def _made(self, row: dict[str, Any]) -> TaskState:
        fields = {name: value for name, value in row.items() if name != "hostname"}
        worker = self._workers.get(row["hostname"])
        return self._tasks_model(worker_id=None if worker is None else worker[0], **fields)


def _text(value: Any, length: int = MAX_TEXT) -> str | None:
    """Return a text as every database takes it: without NUL, lone surrogates as escapes."""
    if value is None:
        return None
    text = str(value).replace("\x00", "")
    return text.encode("utf-8", "backslashreplace").decode()[:length]


def _end(*_: object) -> None:
    raise SystemExit(0)


def _error_type(text: Any) -> str | None:
    """Return the type of an error from its repr: its message may hold what is secret."""
    if text is None:
        return None
    found = _CALL.match(str(text))
    # A repr of its own may begin with anything.
    return "Exception" if found is None else found[0]


def _moment(value: Any) -> datetime | None:
    """Return a moment of an event; None for none, and for what is none."""
    if not value:
        return None
    try:
        moment = from_timestamp(value) if isinstance(value, int | float) else maybe_iso8601(value)
    except (TypeError, ValueError, OverflowError, OSError):
        return None
    if moment is None or timezone.is_naive(moment) != timezone.is_naive(now()):
        return None if moment is None else from_timestamp(moment.timestamp())
    return moment
