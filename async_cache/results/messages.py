"""A call by dotted path on its way to a worker: sealed text, as the core's messages are."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from async_cache.exceptions import MessageRejected
from async_cache.keyring import KeyRing
from async_cache.sealed_text import open_text, seal_text
from async_cache.wire import MALFORMED, dumps_arguments, loads_arguments

__all__ = ["CallMessage", "open_call", "seal_call"]

_PURPOSE: Final = b"async_cache.results.call.1"


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
        queued: When it was handed to the broker.
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
    queued: float = 0.0
    hook: str = ""
    save: bool = True
    cached: bool | float = False


_ARGUMENTS: Final = frozenset({"args", "kwargs"})
_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "id": (str,),
    "path": (str,),
    "args": (tuple,),
    "kwargs": (dict,),
    "name": (str,),
    "group": (str,),
    "sequence": (int, type(None)),
    "created": (float,),
    "queued": (float,),
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
    return seal_text(fields, ring, _PURPOSE, f"{message.path}: the arguments")


def open_call(text: object, ring: KeyRing, *, arguments: bool = True) -> CallMessage:
    """Return the call behind sealed text, with the rows that its arguments name.

    Args:
        text: What the broker delivered.
        ring: The secrets that may have sealed it.
        arguments: False leaves the call's arguments out: nothing is imported, no row loaded.

    Raises:
        MessageRejected: The text is not ours, is malformed, or names what does not exist here.
        django.db.Error: The database does not answer.
    """
    try:
        data = open_text(text, ring, _PURPOSE)
        names = [name for name in _TYPES if arguments or name not in _ARGUMENTS]
        fields = {name: loads_arguments(data[name]) for name in names}
    except MALFORMED as error:
        raise MessageRejected(f"The message is malformed: {error!r}.") from error
    for name in names:
        if type(fields[name]) not in _TYPES[name]:
            raise MessageRejected(f"The message holds another type in {name!r}.")
    return CallMessage(**fields)
