"""Make a call by dotted path and keep its outcome: in a worker, or at once."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Final, NamedTuple

from asgiref.sync import async_to_sync

from async_cache import clock
from async_cache.exceptions import MessageRejected, StoreUnavailable
from async_cache.results.codec import encode_error, encode_value
from async_cache.results.exceptions import TaskTimeout
from async_cache.results.layers import get_layer
from async_cache.results.messages import CallMessage, open_call
from async_cache.results.proxies import Task
from async_cache.results.records import FAILURE, NO_RECORD, STARTED, SUCCESS, Record
from async_cache.results.signals import hook_failed
from async_cache.secret_keys import get_ring
from async_cache.signals import announce, error_name, refresh_dropped

__all__ = ["JOB", "Site", "find_path", "keep_end", "run_call", "run_sealed"]

logger = logging.getLogger("async_cache.results")

MAX_TRACEBACK: Final = 20_000

JOB: Final = "async_cache.results"
"""What announcements name in place of a job."""


class Site(NamedTuple):
    """Where a call is made.

    Attributes:
        worker: Its name, for the record.
        tracks: Whether a record says that the call has begun.
        timeout: Seconds that the call may take; a coroutine is stopped after them.
        timeouts: What the call is interrupted with when its time is over.
        pauses: Seconds between the tries to keep its outcome while the store does not answer.
    """

    worker: str = ""
    tracks: bool = False
    timeout: float | None = None
    timeouts: tuple[type[BaseException], ...] = ()
    pauses: tuple[float, ...] = ()


def run_sealed(sealed: object, site: Site) -> str:
    """Open a sealed call and make it; one that does not open is dropped and announced.

    Returns:
        The state that the task ended in, or ``"dropped"``.
    """
    try:
        message = open_call(sealed, get_ring())
    except MessageRejected as error:
        announce(refresh_dropped, job=JOB, key="", reason=error.reason)
        return "dropped"
    return run_call(message, site).state


def run_call(message: CallMessage, site: Site) -> Record:
    """Make a call, keep its outcome and tell the hook; return the record."""
    record = _begun(message, site, clock.now())
    if site.tracks and message.save:
        _save_start(record, message)
    record = _ended(record, message, site)
    if message.save or not record.successful:
        _save_end(record, message, site)
    if message.hook:
        _tell_hook(record, message, site)
    return record


def keep_end(sealed: object, state: str, error: BaseException, site: Site) -> bool:
    """Keep the end of a call whose process could not tell of it.

    Args:
        sealed: The message; its arguments are not opened.
        state: FAILURE or REVOKED.
        error: What ended it.
        site: Where it ran.

    Returns:
        False when there was nothing to keep: the call has ended, or the message is none.
    """
    try:
        message = open_call(sealed, get_ring(), arguments=False)
    except MessageRejected:
        return False  # dropped and announced by who ran it
    found = get_layer(message.cached).get(message.id)
    if found is not NO_RECORD and found.ready:
        return False
    record = _begun(message, site, None)
    ended = record.replace(state=state, finished=clock.now(), **encode_error(error)._asdict())
    return _save(ended, message)


def _begun(message: CallMessage, site: Site, started: float | None) -> Record:
    return Record(
        id=message.id,
        name=message.name or message.path,
        state=STARTED,
        created=message.created,
        queued=message.queued or None,
        started=started,
        worker=site.worker,
        group=message.group,
        sequence=message.sequence,
    )


def _save(record: Record, message: CallMessage) -> bool:
    seconds = None if isinstance(message.cached, bool) else message.cached
    return get_layer(message.cached).save(record, seconds)


def _save_start(record: Record, message: CallMessage) -> None:
    try:
        _save(record, message)
    except StoreUnavailable as error:
        # The call is worth more than the word that it has begun.
        logger.warning("The start of %s was not stored: %s.", message.id, error_name(error))


def _save_end(record: Record, message: CallMessage, site: Site) -> None:
    """Keep an outcome; the call that led to it may have cost much, so a short outage is sat out."""
    for pause in site.pauses:
        try:
            _save(record, message)
        except StoreUnavailable as error:
            logger.warning("The end of %s is not stored yet: %s.", message.id, error_name(error))
            time.sleep(pause)
        else:
            return
    _save(record, message)


def _ended(record: Record, message: CallMessage, site: Site) -> Record:
    try:
        value = _call(message.path, message.args, message.kwargs, site.timeout)
        encoded = encode_value(value, message.id)
        state, trace = SUCCESS, ""
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - whatever it raises is kept
        late = isinstance(error, site.timeouts)
        encoded = encode_error(_late(message.path, site.timeout) if late else error)
        state, trace = FAILURE, "".join(traceback.format_exception(error))[-MAX_TRACEBACK:]
    return record.replace(state=state, finished=clock.now(), traceback=trace, **encoded._asdict())


def _late(path: str, seconds: float | None) -> TaskTimeout:
    after = "its time limit" if seconds is None else f"its timeout of {seconds:g} s"
    return TaskTimeout(f"{path} ran past {after}.")


def _tell_hook(record: Record, message: CallMessage, site: Site) -> None:
    """Call the hook. The task has ended, so an error of the hook changes nothing of it."""
    task = Task.from_record(record, message.cached is not False)
    try:
        _call(message.hook, (task,), {}, None)
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - logged and announced
        kind = error_name(error)
        logger.error("The hook %s of the task %s raised %s.", message.hook, message.id, kind)
        announce(hook_failed, task_id=message.id, hook=message.hook, error=error, error_type=kind)


def _call(path: str, args: Sequence[Any], kwargs: Mapping[str, Any], timeout: float | None) -> Any:
    value = find_path(path)(*args, **kwargs)
    return async_to_sync(_awaited)(value, path, timeout) if inspect.iscoroutine(value) else value


async def _awaited(coroutine: Any, path: str, timeout: float | None) -> Any:
    # It may run in a thread of its own, where an interruption of this one does not reach it.
    bound = asyncio.timeout(timeout)
    try:
        async with bound:
            return await coroutine
    except TimeoutError as error:
        if bound.expired():
            raise _late(path, timeout) from error
        raise


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
