"""The record of a task: what is kept of it, and which write wins. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from operator import itemgetter
from typing import Any, Final, NamedTuple

__all__ = [
    "FAILURE",
    "NO_RECORD",
    "PENDING",
    "READY_STATES",
    "RECEIVED",
    "RETRY",
    "REVOKED",
    "STARTED",
    "STATES",
    "SUCCESS",
    "SUCCESS_RANK",
    "NoRecord",
    "Outcome",
    "Record",
    "in_call_order",
    "merge",
    "outcome_of",
    "rank",
]

PENDING: Final = "PENDING"
RECEIVED: Final = "RECEIVED"
STARTED: Final = "STARTED"
RETRY: Final = "RETRY"
FAILURE: Final = "FAILURE"
REVOKED: Final = "REVOKED"
SUCCESS: Final = "SUCCESS"

#: The states that Celery has; any other text is a custom state.
STATES: Final = (PENDING, RECEIVED, STARTED, RETRY, FAILURE, REVOKED, SUCCESS)
READY_STATES: Final = frozenset({FAILURE, REVOKED, SUCCESS})

SUCCESS_RANK: Final = 2**31 - 1
"""Rank of SUCCESS in any attempt; ranks fit a signed integer of 32 bits."""

_ORDER: Final = {PENDING: 0, RECEIVED: 1, STARTED: 1, RETRY: 2, FAILURE: 3, REVOKED: 3}
_CUSTOM_ORDER: Final = 1
_FAILED_ORDER: Final = 3
# Room for more orders; the Redis scripts and the database know this number too.
_ATTEMPT: Final = 8
_MAX_RETRIES: Final = 2**24


def rank(retries: int, state: str) -> int:
    """Return a number by which writes of one task compare: a lower one is refused.

    A later attempt beats anything but SUCCESS. Within an attempt: PENDING, then RECEIVED, STARTED
    and custom states, then RETRY, then FAILURE and REVOKED. Equal ranks overwrite each other.

    Args:
        retries: Attempts before this one.
        state: One of `STATES` or a custom one.
    """
    if state == SUCCESS:
        return SUCCESS_RANK
    return min(max(retries, 0), _MAX_RETRIES) * _ATTEMPT + _ORDER.get(state, _CUSTOM_ORDER)


class Outcome(Enum):
    """How a task ended, as far as groups count it."""

    NONE = ""
    SUCCEEDED = "s"
    FAILED = "f"


def outcome_of(rank: int) -> Outcome:
    """Return what a rank says of the end of its task."""
    if rank == SUCCESS_RANK:
        return Outcome.SUCCEEDED
    return Outcome.FAILED if rank % _ATTEMPT == _FAILED_ORDER else Outcome.NONE


class NoRecord(Enum):
    """The type of `NO_RECORD`."""

    NO_RECORD = "no record"

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "NO_RECORD"


NO_RECORD: Final = NoRecord.NO_RECORD
"""There is no such record: falsy, and never None, which is a result."""


class Record(NamedTuple):
    """What is kept of a task. Times are wall-clock seconds; None where not known.

    Attributes:
        id: Id of the task.
        name: Its name.
        state: One of `STATES` or a custom one.
        retries: Attempts before this one.
        created: When the call was made.
        queued: When the message was published.
        started: When a worker began.
        finished: When it ended, whichever way.
        worker: Who ran it.
        group: Label of its group; empty without one.
        sequence: Place among the calls of the group.
        value: The serialized value, or error; see `codec`.
        content_type: What ``value`` is.
        content_encoding: How it is written.
        traceback: Text of the traceback.
        meta: JSON of what else a backend keeps (children, parent, progress).
        args: Text of the arguments, when asked for.
        kwargs: Text of the keyword arguments, when asked for.
    """

    id: str
    name: str = ""
    state: str = PENDING
    retries: int = 0
    created: float | None = None
    queued: float | None = None
    started: float | None = None
    finished: float | None = None
    worker: str = ""
    group: str = ""
    sequence: int | None = None
    value: bytes = b""
    content_type: str = ""
    content_encoding: str = ""
    traceback: str = ""
    meta: str = ""
    args: str = ""
    kwargs: str = ""

    @property
    def rank(self) -> int:
        """The rank of this write; see `rank`."""
        return rank(self.retries, self.state)

    @property
    def outcome(self) -> Outcome:
        """How the task ended."""
        return outcome_of(self.rank)

    @property
    def successful(self) -> bool:
        """Whether it ended well."""
        return self.state == SUCCESS

    @property
    def ready(self) -> bool:
        """Whether it ended."""
        return self.state in READY_STATES

    def replace(self, **changes: Any) -> Record:
        """Return a copy with other values in some fields."""
        return self._replace(**changes)


_KEPT: Final = (
    "name", "created", "queued", "started", "worker", "group", "sequence", "args", "kwargs",
)  # fmt: skip


def merge(old: Record | NoRecord, new: Record) -> Record:
    """Return the new record, with what only the old one knows of the call and its start."""
    if old is NO_RECORD:
        return new
    lacking = {
        name: value
        for name in _KEPT
        if getattr(new, name) in (None, "") and (value := getattr(old, name)) not in (None, "")
    }
    return new._replace(**lacking) if lacking else new


_SEQUENCE: Final = Record._fields.index("sequence")
# Two of one number are no call's order; the same on every layer nevertheless.
_by_sequence: Final = itemgetter(_SEQUENCE, Record._fields.index("id"))


def in_call_order(records: Iterable[Record]) -> list[Record]:
    """Return the members of a group by sequence, those without one after them as they ended."""
    placed: list[Record] = []
    others: list[Record] = []
    for record in records:
        (others if record[_SEQUENCE] is None else placed).append(record)
    placed.sort(key=_by_sequence)
    others.sort(key=lambda record: (record.finished is None, record.finished or 0.0, record.id))
    return placed + others
