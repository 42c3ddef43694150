"""Open stored records; what does not open is announced, and is no record."""

from __future__ import annotations

from async_cache.keyring import Opener
from async_cache.results.exceptions import RecordRejected
from async_cache.results.records import NO_RECORD, NoRecord, Record
from async_cache.results.sealed import load_record
from async_cache.signals import announce, entry_rejected

__all__ = ["opened"]

JOB = "async_cache.results"


def opened(raw: object, opener: Opener, task_id: str | None = None) -> Record | NoRecord:
    """Return the record in stored bytes.

    Args:
        raw: What the store returned.
        opener: From `codec.record_opener`.
        task_id: Whose record it must be.
    """
    try:
        record = load_record(raw, opener)
        if task_id is not None and record.id != task_id:
            raise RecordRejected("the record of another task")
    except RecordRejected as error:
        announce(entry_rejected, job=JOB, key=task_id or "", reason=str(error))
        return NO_RECORD
    return record
