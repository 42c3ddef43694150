"""Tell those who wait of rows that became ready: NOTIFY, on PostgreSQL.

It takes a lock of the whole server, held until the commit is on disk, and fails with a full queue.
So it is a statement of its own after the write has been committed: it writes nothing to wait for,
and its failure costs those who wait a moment, not the result.
"""

from __future__ import annotations

import logging
from base64 import b85encode
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any, Final

from django.db import DatabaseError, connections

from async_cache.hooks import in_transaction
from async_cache.results.apart import run_apart
from async_cache.results.conf import get_results_settings
from async_cache.results.records import READY_STATES
from async_cache.results.waiting.topics import GROUP, NAME, TASK, Topic

__all__ = ["CHANNEL", "mark", "tell"]

logger = logging.getLogger("async_cache.results")

CHANNEL: Final = "async_cache_results"
MARKS: Final = 600
"""Marks of one payload: PostgreSQL takes less than 8000 bytes."""


def mark(topic: Topic) -> str:
    """Return what stands for a topic in a payload: ten characters and a space fit 700 times."""
    digest = blake2b(topic.name.encode("utf-8", "surrogatepass"), digest_size=8)
    return topic.kind[0] + b85encode(digest.digest()).decode()


def tell(alias: str, rows: Iterable[Any]) -> None:
    """Tell of those rows, just committed, that are ready.

    Args:
        alias: Their database.
        rows: Rows of `TaskResult`.
    """
    if connections[alias].vendor != "postgresql" or not get_results_settings().notify:
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
        if row.status in READY_STATES:
            yield mark(Topic(TASK, row.task_id))
            if row.task_name:
                yield mark(Topic(NAME, row.task_name))
            if row.group:
                yield mark(Topic(GROUP, row.group))


def _notify(alias: str, payload: str) -> Any:
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT pg_notify(%s, %s)", [CHANNEL, payload])
    return True
