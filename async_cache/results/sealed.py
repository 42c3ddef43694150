"""A record as sealed bytes. Pure."""

from __future__ import annotations

import pickle
from hmac import compare_digest
from struct import Struct
from typing import Any, Final

from async_cache.keyring import MAC_SIZE, Opener
from async_cache.results.exceptions import RecordRejected
from async_cache.results.records import STATES, Record

__all__ = ["dump_record", "load_record", "rank_in"]

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
