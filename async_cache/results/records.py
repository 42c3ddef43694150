"""The record of a task: what is kept of it, which write wins, and its sealed bytes. Pure."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from enum import Enum
from hmac import compare_digest
from operator import itemgetter
from struct import Struct
from typing import Any, Final, NamedTuple

from async_cache.keyring import MAC_SIZE, Opener
from async_cache.results.exceptions import RecordRejected

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
    "dump_record",
    "in_call_order",
    "load_record",
    "merge",
    "outcome_of",
    "rank",
    "rank_in",
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
_by_sequence: Final = itemgetter(_SEQUENCE)


def in_call_order(records: Iterable[Record]) -> list[Record]:
    """Return the members of a group by sequence, those without one after them as they ended."""
    placed: list[Record] = []
    others: list[Record] = []
    for record in records:
        (others if record[_SEQUENCE] is None else placed).append(record)
    placed.sort(key=_by_sequence)
    others.sort(key=lambda record: (record.finished is None, record.finished or 0.0, record.id))
    return placed + others


# A sealed record is ``mac | rank | format | body``; the MAC covers all that follows it, and is
# checked before the body is unpickled. The body is the pickle of a tuple of plain values, the
# fields in their order, cut after the last that is not its default. Records of a large group are
# many and small, so a pickle of one frame is kept without the 11 bytes that begin it.
_RANK: Final = Struct(">I")
_WHOLE, _BARE = b"\x01", b"\x02"
_FORMAT_AT: Final = MAC_SIZE + _RANK.size
_BODY_AT: Final = _FORMAT_AT + 1
_PROTOCOL: Final = b"\x80\x05"
_FRAME: Final = Struct("<2sBQ")
_FRAME_CODE: Final = 0x95
_STATE, _TYPE, _ENCODING = (
    Record._fields.index(name) for name in ("state", "content_type", "content_encoding")
)
_DEFAULTS: Final = (None, *Record._field_defaults.values())
_STATE_CODES: Final = {state: code for code, state in enumerate(STATES)}
_TYPES: Final = (
    ("", ""),
    ("application/x-async-cache", "pickle"),
    ("application/json", "utf-8"),
    ("application/json", ""),
)
_TYPE_CODES: Final = {pair: code for code, pair in enumerate(_TYPES)}
_UUID_SIZE: Final = 16


def dump_record(record: Record, opener: Opener) -> bytes:
    """Return a record's sealed bytes.

    Args:
        record: What to write.
        opener: From `KeyRing.opener`; its current secret seals.
    """
    fields: list[Any] = list(record)
    fields[0] = _pack_id(record.id)
    fields[_STATE] = _STATE_CODES.get(record.state, record.state)
    code = _TYPE_CODES.get((record.content_type, record.content_encoding))
    if code is not None:
        fields[_TYPE], fields[_ENCODING] = code, ""
    size = len(fields)
    while size > 1 and fields[size - 1] == _DEFAULTS[size - 1]:
        size -= 1
    body, format_ = pickle.dumps(tuple(fields[:size]), 5), _WHOLE
    if body[: _FRAME.size] == _FRAME.pack(_PROTOCOL, _FRAME_CODE, len(body) - _FRAME.size):
        body, format_ = body[_FRAME.size :], _BARE
    sealed = b"".join((_RANK.pack(record.rank), format_, body))
    state = opener.copy()
    state.update(sealed)
    return state.digest() + sealed


def load_record(raw: object, opener: Opener) -> Record:
    """Check the seal of stored bytes and return their record.

    Raises:
        RecordRejected: Corrupt, truncated, foreign, forged or of another format.
    """
    if type(raw) is not bytes:
        raise RecordRejected(f"not a record: {type(raw).__qualname__} in place of bytes")
    sealed = raw[MAC_SIZE:]
    state = opener.copy()
    state.update(sealed)
    if not compare_digest(state.digest(), raw[:MAC_SIZE]):
        _try_fallbacks(sealed, raw[:MAC_SIZE], opener)
    format_, body = raw[_FORMAT_AT:_BODY_AT], raw[_BODY_AT:]
    if format_ == _BARE:
        body = _PROTOCOL + body
    elif format_ != _WHOLE:
        raise RecordRejected("sealed here, but in another format")
    try:
        fields = list(pickle.loads(body))
        fields += _DEFAULTS[len(fields) :]
        fields[0] = _unpack_id(fields[0])
        if type(fields[_STATE]) is int:
            fields[_STATE] = STATES[fields[_STATE]]
        if type(fields[_TYPE]) is int:
            fields[_TYPE], fields[_ENCODING] = _TYPES[fields[_TYPE]]
        return Record._make(fields)
    except (pickle.UnpicklingError, ValueError, TypeError, IndexError, EOFError) as error:
        raise RecordRejected("sealed here, but of another layout") from error


def rank_in(raw: bytes) -> int:
    """Return the rank that sealed bytes carry, without opening them."""
    if len(raw) < _BODY_AT:
        return -1
    (number,) = _RANK.unpack_from(raw, MAC_SIZE)
    return int(number)


def _try_fallbacks(sealed: bytes, mac: bytes, opener: Opener) -> None:
    for fallback in opener.fallbacks:
        state = fallback.copy()
        state.update(sealed)
        if compare_digest(state.digest(), mac):
            return
    raise RecordRejected("the seal does not match: changed, forged, or of another SECRET_KEY")


def _pack_id(task_id: str) -> str | bytes:
    # The text of a UUID is most of a small record.
    if len(task_id) == 36 and task_id[8] == "-":
        try:
            packed = bytes.fromhex(task_id.replace("-", ""))
        except ValueError:
            return task_id
        if len(packed) == _UUID_SIZE and _unpack_id(packed) == task_id:
            return packed
    return task_id


def _unpack_id(packed: str | bytes) -> str:
    if type(packed) is not bytes:
        return str(packed)
    text = packed.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
