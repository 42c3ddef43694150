"""A call by dotted path on its way to a worker: sealed text that any serializer carries.

The text is ``1.<mac in hex>.<JSON>``, as the core's messages are. The MAC is checked before
anything else is read: what was not sealed under the project's secrets is never parsed, imports
nothing and asks no database.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, NamedTuple

from async_cache.exceptions import MessageRejected, UnkeyableArgument
from async_cache.keyring import KeyRing
from async_cache.messages import MAX_MESSAGE_SIZE
from async_cache.wire import MALFORMED, dumps_arguments, loads_arguments

__all__ = ["CallMessage", "open_call", "seal_call"]

_PURPOSE: Final = b"async_cache.results.call.1"
_SEALED: Final = re.compile(r"1\.([0-9a-f]{32})\.(\{.*\})", re.ASCII | re.DOTALL)


class CallMessage(NamedTuple):
    """A call that a worker is to make.

    Attributes:
        id: Id of the task, and of its record.
        path: Dotted path of the function.
        args: Its arguments.
        kwargs: Its keyword arguments.
        name: The name that the caller gave, else the path.
        group: Label of its group; empty without one.
        sequence: Place among the calls of the group.
        created: When the call was made, in wall-clock seconds.
        hook: Dotted path of what is called with the ended task; empty for nothing.
        save: Whether a success leaves a record; a failure always does.
        cached: Where the record goes: False the database, True or seconds the cache.
    """

    id: str
    path: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}  # noqa: RUF012 - never changed
    name: str = ""
    group: str = ""
    sequence: int | None = None
    created: float = 0.0
    hook: str = ""
    save: bool = True
    cached: bool | float = False


_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "id": (str,),
    "path": (str,),
    "args": (tuple,),
    "kwargs": (dict,),
    "name": (str,),
    "group": (str,),
    "sequence": (int, type(None)),
    "created": (float,),
    "hook": (str,),
    "save": (bool,),
    "cached": (bool, float),
}


def seal_call(message: CallMessage, ring: KeyRing) -> str:
    """Return the call as authenticated ASCII text.

    Raises:
        UnkeyableArgument: An argument cannot travel, or all of them are too large.
    """
    fields = {name: dumps_arguments(value, name) for name, value in message._asdict().items()}
    body = json.dumps(fields, separators=(",", ":"), allow_nan=False)
    text = f"1.{ring.mac(body.encode('ascii'), _PURPOSE).hex()}.{body}"
    if len(text) > MAX_MESSAGE_SIZE:
        raise UnkeyableArgument(
            f"{message.path}: the arguments make a message of {len(text)} bytes, more than "
            f"{MAX_MESSAGE_SIZE}; pass what identifies large values"
        )
    return text


def open_call(text: object, ring: KeyRing) -> CallMessage:
    """Return the call behind sealed text, with the rows that its arguments name.

    Raises:
        MessageRejected: The text is not ours, is malformed, or names what does not exist here.
        django.db.Error: The database does not answer.
    """
    if not isinstance(text, str) or len(text) > MAX_MESSAGE_SIZE or not text.isascii():
        raise MessageRejected(
            "The message is no text, is too large, or is not ours.", reason="forged"
        )
    match = _SEALED.fullmatch(text)
    if match is None:
        raise MessageRejected("The message has another format, or is damaged.", reason="forged")
    mac, body = match.groups()
    if not ring.verify(body.encode("ascii"), bytes.fromhex(mac), _PURPOSE):
        raise MessageRejected(
            "The seal of the message does not fit: it was altered, or sender and worker have "
            "different SECRET_KEYs (see SECRET_KEY_FALLBACKS).",
            reason="forged",
        )
    try:
        data = json.loads(body)
        fields = {name: loads_arguments(data[name]) for name in _TYPES}
    except MALFORMED as error:
        raise MessageRejected(f"The message is malformed: {error!r}.") from error
    for name, types in _TYPES.items():
        if type(fields[name]) not in types:
            raise MessageRejected(f"The message holds another type in {name!r}.")
    return CallMessage(**fields)
