"""Every refresh of the core leaves a record in the cache, found by the name of its job.

The records are slots, which each process uses in turn: their number is bounded by the setting
``REFRESHES``, their age by ``EXPIRES``. A record tells how the refresh ended, never its value or an
error's message.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from functools import partial
from typing import Any, Final

from async_cache import clock, threads
from async_cache.exceptions import StoreUnavailable
from async_cache.results.codec import JSON
from async_cache.results.conf import get_results_settings
from async_cache.results.layers import get_cache_layer
from async_cache.results.records import FAILURE, SUCCESS, Record
from async_cache.signals import refresh_committed, refresh_failed

__all__ = ["connect", "disconnect"]

_SLOTS: Final = "async_cache.refreshes"
_UID: Final = "async_cache.results.listeners"

_turns = itertools.count(int.from_bytes(os.urandom(4)))


def _start_elsewhere() -> None:
    """Have the children of a worker not write over each other's slots, one after the other."""
    global _turns
    _turns = itertools.count(int.from_bytes(os.urandom(4)))


threads.after_fork(_start_elsewhere)


def _on_committed(
    *, job: str, key: str, seconds: float, size: int, stale: bool = False, **_: Any
) -> None:
    _keep_aside(job, SUCCESS, seconds, b"null", {"key": key, "size": size, "stale": stale})


def _on_failed(*, job: str, key: str, seconds: float, error_type: str, **_: Any) -> None:
    module, _dot, name = error_type.rpartition(".")
    error = {"exc_type": name, "exc_module": module or "builtins", "exc_message": ""}
    _keep_aside(job, FAILURE, seconds, json.dumps(error).encode(), {"key": key})


def _keep_aside(*what: Any) -> None:
    """Keep a record: in this thread, or in another where an event loop must not be held up."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        _keep(*what)
    else:
        loop.run_in_executor(None, partial(_keep_in_thread, *what))


def _keep_in_thread(*what: Any) -> None:
    try:
        _keep(*what)
    except StoreUnavailable:
        return  # announced by the store; the refresh itself is not touched by it
    finally:
        threads.close_connections()


def _keep(job: str, state: str, seconds: float, value: bytes, meta: dict[str, Any]) -> None:
    slots = get_results_settings().refreshes
    if not slots:
        return
    layer = get_cache_layer()
    task_id = f"{_SLOTS}.{next(_turns) % slots}"
    finished = clock.now()
    # What the slot held is another refresh, and may be of higher rank.
    layer.forget(task_id)
    layer.save(
        Record(
            task_id,
            name=job,
            state=state,
            started=finished - seconds,
            finished=finished,
            value=value,
            content_type=JSON,
            content_encoding="utf-8",
            meta=json.dumps(meta),
        )
    )


def connect() -> None:
    """Let records listen. Connecting twice is the same as once."""
    refresh_committed.connect(_on_committed, dispatch_uid=_UID)
    refresh_failed.connect(_on_failed, dispatch_uid=_UID)


def disconnect() -> None:
    """Let records listen no more."""
    refresh_committed.disconnect(dispatch_uid=_UID)
    refresh_failed.disconnect(dispatch_uid=_UID)
