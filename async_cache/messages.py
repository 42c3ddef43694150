"""What a refresh sends to a worker: sealed text (see `sealed_text`) with typed arguments."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from async_cache.arguments import Rows
from async_cache.entry import KeyRing
from async_cache.exceptions import MessageRejected
from async_cache.keys import Call
from async_cache.sealed_text import MAX_SIZE, open_text, seal_text
from async_cache.wire import MALFORMED, dumps_arguments, loads_arguments, want_rows

__all__ = [
    "MAX_MESSAGE_SIZE",
    "LostItem",
    "RefreshItem",
    "RefreshMessage",
    "dumps_arguments",
    "loads_arguments",
    "open_message",
    "seal_message",
]

MAX_MESSAGE_SIZE: Final = MAX_SIZE

_PURPOSE: Final = b"async_cache.message.1"
_DIGEST: Final = re.compile(r"[a-z0-9]{1,64}")


class RefreshItem(NamedTuple):
    """One call to refresh.

    Attributes:
        call: The bound arguments.
        digest: The call's digest in its cache keys.
        token: Names the owner of the queued lease.
        entry_id: Id of the entry it replaces.
    """

    call: Call
    digest: str
    token: bytes
    entry_id: bytes


class LostItem(NamedTuple):
    """One call of a message whose arguments do not exist in this process (any more).

    Attributes:
        digest: The call's digest in its cache keys.
        token: Names the owner of the queued lease, to be given back.
        entry_id: Id of the entry it would have replaced.
        reason: Why, for a log.
    """

    digest: str
    token: bytes
    entry_id: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class RefreshMessage:
    """Calls of one job that a worker is to refresh.

    Attributes:
        job: The job's name.
        version: The job's version where the message was made.
        constructor: The job's constructor arguments.
        options: The options its constructor was given.
        items: The calls.
        context: What the job varies by, as (name, value) pairs.
        enqueued_at: Wall-clock seconds.
        expires_at: Wall-clock seconds after which a worker drops the message; None for never.
        lost: Calls that could not be opened. A sender leaves it empty.
        module: Where the job's class is defined, when its name does not tell.
    """

    job: str
    version: int | str
    constructor: Call
    items: tuple[RefreshItem, ...]
    context: tuple[tuple[str, str], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    enqueued_at: float = 0.0
    expires_at: float | None = None
    lost: tuple[LostItem, ...] = ()
    module: str = ""


def seal_message(message: RefreshMessage, ring: KeyRing) -> str:
    """Return the message as authenticated ASCII text.

    Raises:
        UnkeyableArgument: An argument cannot travel, or all of them are too large.
    """
    fields = {
        "job": message.job,
        "module": message.module,
        "version": message.version,
        "constructor": _dump_call(message.constructor),
        "options": _dump_named(message.options),
        "context": list(message.context),
        "enqueued_at": message.enqueued_at,
        "expires_at": message.expires_at,
        "items": [
            [_dump_call(item.call), item.digest, item.token.hex(), item.entry_id.hex()]
            for item in message.items
        ],
    }
    subject = f"{message.job}: the arguments of {len(message.items)} call(s)"
    return seal_text(fields, ring, _PURPOSE, subject)


def open_message(text: object, ring: KeyRing, now: float | None = None) -> RefreshMessage:
    """Return the message behind sealed text, with the rows that its arguments name.

    Args:
        text: What the broker delivered.
        ring: The secrets that may have sealed it.
        now: Wall-clock seconds; with it, an expired message is rejected before its rows are loaded.

    Raises:
        MessageRejected: The text is not ours, is malformed, has expired, or names a job's
            constructor argument that does not exist here.
        django.db.Error: The database does not answer.
    """
    try:
        return _open(open_text(text, ring, _PURPOSE), now)
    except MALFORMED as error:
        raise MessageRejected(f"The message is malformed: {error!r}.") from error


def _open(data: dict[str, Any], now: float | None) -> RefreshMessage:
    expires = data["expires_at"]
    if now is not None and expires is not None and expires < now:
        raise MessageRejected(f"The message of {data['job']} has expired.", reason="expired")
    rows = Rows()
    want_rows(data["constructor"], rows)
    want_rows(data["options"], rows)
    opened: list[tuple[Any, tuple[str, bytes, bytes]]] = []
    lost: list[LostItem] = []
    for raw, digest, token, entry_id in data["items"]:
        if _DIGEST.fullmatch(digest) is None:
            raise MessageRejected("The message names a call by something else than a digest.")
        found = (digest, bytes.fromhex(token), bytes.fromhex(entry_id))
        try:
            want_rows(raw, rows)
        except MessageRejected as error:
            lost.append(LostItem(*found, reason=str(error)))
        else:
            opened.append((raw, found))
    constructor = _load_call(data["constructor"], rows)
    options = _load_named(data["options"], rows)
    items: list[RefreshItem] = []
    for raw, found in opened:
        try:
            items.append(RefreshItem(_load_call(raw, rows), *found))
        except MessageRejected as error:
            lost.append(LostItem(*found, reason=str(error)))
    return RefreshMessage(
        job=_typed(data["job"], str),
        module=_typed(data.get("module", ""), str),
        version=_typed(data["version"], int, str),
        constructor=constructor,
        items=tuple(items),
        context=tuple((_typed(name, str), _typed(value, str)) for name, value in data["context"]),
        options=options,
        enqueued_at=_typed(data["enqueued_at"], float, int),
        expires_at=_typed(expires, float, int, type(None)),
        lost=tuple(lost),
    )


def _dump_call(call: Call) -> list[Any]:
    args = [dumps_arguments(value, f"#{index}") for index, value in enumerate(call.args)]
    return [args, _dump_named(call.kwargs)]


def _load_call(data: Any, rows: Rows) -> Call:
    args, kwargs = data
    return Call(tuple(loads_arguments(_typed(args, list), rows)), _load_named(kwargs, rows))


def _dump_named(values: Mapping[str, Any]) -> list[Any]:
    return [[name, dumps_arguments(value, name)] for name, value in values.items()]


def _load_named(data: Any, rows: Rows) -> dict[str, Any]:
    return {_typed(name, str): loads_arguments(value, rows) for name, value in data}


def _typed(value: Any, *types: type) -> Any:
    if type(value) not in types:
        raise MessageRejected(f"The message holds a {type(value).__name__} in the wrong place.")
    return value
