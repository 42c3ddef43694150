"""Rows that are written in batches: 200 of them, or what came in 200 ms, and at shutdown."""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from celery.signals import worker_process_shutdown, worker_shutdown
from django.db import DatabaseError, DataError, IntegrityError, InterfaceError

from async_cache import clock, threads
from async_cache.results.managers import TASK_RULES
from async_cache.signals import error_name

__all__ = ["RowBuffer", "flush_rows", "get_buffer"]

logger = logging.getLogger("async_cache.results")

BATCH: Final = 200
"""Rows of one write."""
SECONDS: Final = 0.2
"""How long a row waits for others."""
MAX_ROWS: Final = 10_000
"""Rows that may wait; past them the caller writes."""
GIVE_UP_SECONDS: Final = 60.0
"""How long rows are kept while the database fails."""
EXIT_SECONDS: Final = 5.0
"""How long the end of the process waits for the rows."""

Write = Callable[[Sequence[Mapping[str, Any]]], object]


class RowBuffer:
    """Rows of task results that wait to be written together; one row a task.

    Args:
        write: Writes rows of different tasks.
    """

    def __init__(self, write: Write) -> None:
        self._write = write
        self._changed = threading.Condition()
        self._writing = threading.Lock()
        self._rows: dict[str, Mapping[str, Any]] = {}
        self._thread: threading.Thread | None = None
        self._failing_since: float | None = None

    def put(self, row: Mapping[str, Any]) -> None:
        """Let a row wait; write at once where there is no thread, or too many rows wait."""
        with self._changed:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threads.start("rows", self._run)
            self._keep(row)
            waits = self._thread is not None and len(self._rows) < MAX_ROWS
            if len(self._rows) == 1 or len(self._rows) >= BATCH:
                self._changed.notify()
        if not waits:
            self.flush()

    def flush(self) -> bool:
        """Write all that waits; return False when the database failed."""
        with self._writing:
            while True:
                with self._changed:
                    batch = [self._rows[key] for key in list(self._rows)[:BATCH]]
                    for row in batch:
                        del self._rows[row["task_id"]]
                if not batch:
                    return True
                if not self._try(batch):
                    return False

    def _try(self, batch: Sequence[Mapping[str, Any]]) -> bool:
        try:
            self._write(batch)
        except Exception as error:  # noqa: BLE001 - logged, with the one row that it is about
            passing = isinstance(error, DatabaseError | InterfaceError)
            if passing and not isinstance(error, DataError | IntegrityError):
                return self._wait_with(batch, error)
            if len(batch) > 1:
                return self._try_each(batch)
            kind = error_name(error)
            logger.error(
                "The row of %s is refused, and was not stored: %s.", batch[0]["task_id"], kind
            )
        else:
            self._failing_since = None
        return True

    def _wait_with(self, batch: Sequence[Mapping[str, Any]], error: Exception) -> bool:
        moment = clock.monotonic()
        if self._failing_since is None:
            self._failing_since = moment
        if moment - self._failing_since > GIVE_UP_SECONDS:
            logger.error("%d rows of results were not stored.", len(batch), exc_info=error)
            return True
        logger.warning("Rows of results wait: the database fails.", exc_info=error)
        self._keep_all(batch)
        return False

    def _try_each(self, batch: Sequence[Mapping[str, Any]]) -> bool:
        """Write row by row, so that one which the database refuses takes no other with it."""
        for place, row in enumerate(batch, 1):
            if not self._try([row]):
                self._keep_all(batch[place:])
                return False
        return True

    def _keep_all(self, batch: Sequence[Mapping[str, Any]]) -> None:
        with self._changed:
            for row in batch:
                self._keep(row, older=True)

    def _keep(self, row: Mapping[str, Any], older: bool = False) -> None:
        held = self._rows.get(row["task_id"])
        if held is not None:
            first, second = (row, held) if older else (held, row)
            row = first if first["rank"] > second["rank"] else _merged(first, second)
        self._rows[row["task_id"]] = row

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._rows))
                self._changed.wait_for(lambda: len(self._rows) >= BATCH, SECONDS)
            try:
                if not self.flush():
                    with self._changed:
                        self._changed.wait(1.0)
            finally:
                threads.close_connections()


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: old[name] for name in TASK_RULES.keep if new[name] is None}
    return {**new, **kept, **{name: old[name] for name in TASK_RULES.first}}


_buffer: RowBuffer | None = None
_lock = threading.Lock()


def get_buffer(write: Write) -> RowBuffer:
    """Return the buffer of this process."""
    global _buffer
    with _lock:
        if _buffer is None:
            _buffer = RowBuffer(write)
        return _buffer


def flush_rows(**_: Any) -> None:
    """Write what waits in this process, for a few seconds at most."""
    end = clock.monotonic() + EXIT_SECONDS
    while _buffer is not None and not _buffer.flush() and clock.monotonic() < end:
        threading.Event().wait(SECONDS)


def _reset() -> None:
    # The rows of the parent are the parent's.
    global _buffer, _lock
    _buffer, _lock = None, threading.Lock()


threads.after_fork(_reset)
atexit.register(flush_rows)
# A child of the prefork pool ends without atexit.
worker_process_shutdown.connect(flush_rows, weak=False)
worker_shutdown.connect(flush_rows, weak=False)
