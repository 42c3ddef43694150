"""Make a call by dotted path and keep its outcome: in a worker, or at once."""

from __future__ import annotations

import inspect
import traceback
from importlib import import_module
from typing import Any, Final

from asgiref.sync import async_to_sync

from async_cache import clock
from async_cache.exceptions import MessageRejected
from async_cache.results.codec import encode_error, encode_value
from async_cache.results.layers import get_layer
from async_cache.results.messages import CallMessage, open_call
from async_cache.results.proxies import Task
from async_cache.results.records import FAILURE, SUCCESS, Record
from async_cache.secret_keys import get_ring
from async_cache.signals import announce, refresh_dropped

__all__ = ["find_path", "run_call", "run_sealed"]

MAX_TRACEBACK: Final = 20_000


def run_sealed(sealed: object, worker: str = "") -> str:
    """Open a sealed call and make it; one that does not open is dropped and announced.

    Returns:
        The state that the task ended in, or ``"dropped"``.
    """
    try:
        message = open_call(sealed, get_ring())
    except MessageRejected as error:
        announce(refresh_dropped, job="", key="", reason=error.reason)
        return "dropped"
    return run_call(message, worker).state


def run_call(message: CallMessage, worker: str = "") -> Record:
    """Make a call, keep its outcome and tell the hook; return the record."""
    record = Record(
        id=message.id,
        name=message.name or message.path,
        created=message.created,
        queued=message.created,
        started=clock.now(),
        worker=worker,
        group=message.group,
        sequence=message.sequence,
    )
    record = _ended(record, message)
    if message.save or not record.successful:
        seconds = None if isinstance(message.cached, bool) else message.cached
        get_layer(message.cached).save(record, seconds)
    if message.hook:
        find_path(message.hook)(Task.from_record(record, message.cached is not False))
    return record


def _ended(record: Record, message: CallMessage) -> Record:
    try:
        value = find_path(message.path)(*message.args, **message.kwargs)
        if inspect.iscoroutine(value):
            value = async_to_sync(_awaited)(value)
        encoded = encode_value(value, message.id)
        state, trace = SUCCESS, ""
    except Exception as error:  # noqa: BLE001 - whatever the project's function raises is kept
        encoded = encode_error(error)
        state, trace = FAILURE, "".join(traceback.format_exception(error))[-MAX_TRACEBACK:]
    return record.replace(state=state, finished=clock.now(), traceback=trace, **encoded._asdict())


async def _awaited(coroutine: Any) -> Any:
    return await coroutine


def find_path(path: str) -> Any:
    """Return what a dotted path names: in a module, or in a class of one.

    Raises:
        ImportError: There is no such module, or nothing of that name in it.
    """
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:length])
        try:
            found: Any = import_module(name)
        except ModuleNotFoundError as error:
            # A class is no module; what a module itself lacks is another matter.
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            continue
        try:
            for part in parts[length:]:
                found = getattr(found, part)
        except AttributeError as error:
            raise ImportError(f"there is no {path!r}: {error}") from error
        return found
    raise ImportError(f"there is no module of {path!r}")
