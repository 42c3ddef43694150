"""Tell those who wait of rows that became ready: NOTIFY, on PostgreSQL.

NOTIFY takes a lock of the whole server, held until the commit is on disk, and fails with a full
queue. So it is a statement of its own after the write has been committed: it writes nothing to wait
for, and its failure costs those who wait a moment, not the result.

It costs a third of a write, and mostly nobody listens. So who listens holds an advisory lock,
shared, from before he listens and looks; each write tries the same lock, exclusive, for its
transaction. When it gets it nobody listens yet, and who is about to waits for the end of that
transaction before he looks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import Any, Final

from django.db import DatabaseError, connections

from async_cache.hooks import in_transaction
from async_cache.results.apart import run_apart
from async_cache.results.conf import get_results_settings
from async_cache.results.records import READY_STATES
from async_cache.results.waiting.topics import GROUP, NAME, TASK, Topic

__all__ = ["CHANNEL", "LISTENING", "mark", "tell", "unheard"]

logger = logging.getLogger("async_cache.results")

CHANNEL: Final = "async_cache_results"
LISTENING: Final = int.from_bytes(b"acresult", "big")
"""The advisory lock of who listens."""
MARKS: Final = 400
"""Marks of one payload: PostgreSQL takes less than 8000 bytes."""


def mark(topic: Topic) -> str:
    """Return what stands for a topic in a payload: a letter and sixteen digits."""
    digest = blake2b(topic.name.encode("utf-8", "surrogatepass"), digest_size=8)
    return topic.kind[0] + digest.hexdigest()


def unheard(alias: str, rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the expression that is true as a row is written when nobody listens; else ``""``.

    Args:
        alias: The database.
        rows: The rows to be written.
    """
    if not _tells(alias) or not any(row["status"] in READY_STATES for row in rows):
        return ""
    return f"pg_try_advisory_xact_lock({LISTENING})"


def _tells(alias: str) -> bool:
    return connections[alias].vendor == "postgresql" and get_results_settings().notify


def tell(alias: str, rows: Iterable[Any]) -> None:
    """Tell of those rows, just committed, that are ready.

    Args:
        alias: Their database.
        rows: Rows of `TaskResult`; those of which ``unheard`` is true are left out.
    """
    if not _tells(alias):
        return
    marks = list(dict.fromkeys(_marks(rows)))
    for start in range(0, len(marks), MARKS):
        payload = " ".join(marks[start : start + MARKS])
        try:
            if in_transaction(connections[alias]):
                run_apart(alias, lambda payload=payload: _notify(alias, payload))  # type: ignore[misc]
            else:
                _notify(alias, payload)
        except DatabaseError as error:
            logger.warning("Who waits for results was not told of them: %s", error)


def _marks(rows: Iterable[Any]) -> Iterator[str]:
    for row in rows:
        if row.status in READY_STATES and not row.unheard:
            yield mark(Topic(TASK, row.task_id))
            if row.task_name:
                yield mark(Topic(NAME, row.task_name))
            if row.group:
                yield mark(Topic(GROUP, row.group))


def _notify(alias: str, payload: str) -> Any:
    with connections[alias].cursor() as cursor:
        # Hexadecimal digits: nothing to quote. As a function it would be planned, which costs more.
        cursor.execute(f"NOTIFY {CHANNEL}, '{payload}'")
    return True
