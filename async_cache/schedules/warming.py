"""Refresh, before they turn stale, the calls that this process has lately read.

A job with ``keep_warm`` notes in memory when each of its calls was last read. A thread looks at
those notes every second: a call that turns stale soon is read once, since another process may have
had it refreshed, and else asked for. A call that was a miss is looked up until its value is there.
Who is not read for ``keep_warm`` is left alone.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final

from async_cache import clock, publisher, rota, threads
from async_cache.exceptions import StoreUnavailable
from async_cache.policy import Decision
from async_cache.reading import judge, wish
from async_cache.signals import error_name

if TYPE_CHECKING:
    from async_cache.addresses import Address
    from async_cache.dispatchers.base import RefreshRequest
    from async_cache.targets import Runtime

__all__ = ["lead", "start", "turn"]

logger = logging.getLogger("async_cache")

INTERVAL: Final = 1.0
"""Seconds between two looks."""
CHUNK: Final = 500
"""Calls that are looked at in one round trip."""
MARGIN: Final = 0.1
"""Part of the time that a value is fresh, before whose end it is refreshed."""


def lead(fresh_seconds: float, fetch_seconds: float) -> float:
    """Return how long before its end a fresh value is refreshed.

    Args:
        fresh_seconds: How long it is fresh in all.
        fetch_seconds: How long its fetch took.
    """
    wanted = max(MARGIN * fresh_seconds, 3 * fetch_seconds + 2 * INTERVAL)
    return min(wanted, fresh_seconds / 2)


def turn() -> int:
    """Ask for the refreshes that are due now; return how many are on their way.

    What one job's cache or code does to it does not keep the others from being warmed.
    """
    asked = 0
    for runtime in rota.runtimes():
        try:
            asked += _warm(runtime) if runtime.enabled else 0
        except StoreUnavailable:
            continue  # announced by the store
        except Exception as error:  # noqa: BLE001 - a job's own code must not end the thread
            logger.error("Keeping %s warm failed: %s.", runtime.name, error_name(error))
    return asked


def _warm(runtime: Runtime) -> int:
    now = clock.now()
    assert runtime.keep_warm is not None
    soon = [one for one in runtime.read_since(now - runtime.keep_warm) if _is_near(one, now)]
    asked = 0
    for at in range(0, len(soon), CHUNK):
        chunk = soon[at : at + CHUNK]
        found = runtime.store.read_many([address.handle for address in chunk])
        requests: list[RefreshRequest] = []
        for address, raws in zip(chunk, found, strict=True):
            judged = judge(runtime, address, raws)
            if judged is None:
                _note_nothing(runtime, address, now)
                continue
            address.seen = judged[0]
            if judged[2] is Decision.FRESH and not _is_near(address, now):
                continue  # another process had it refreshed
            request = wish(runtime, address, judged[0].entry_id, raws)
            if request is not None:
                requests.append(request)
        asked += publisher.submit_many(requests)
    return asked


def _note_nothing(runtime: Runtime, address: Address, now: float) -> None:
    """Leave a call alone that has no value, unless the fetch of its last read may still run."""
    address.seen = None
    if now - address.read_at > runtime.policy.fetch_timeout:
        address.read_at = 0.0  # the next read fetches, and notes itself


def _is_near(address: Address, now: float) -> bool:
    header = address.seen
    if header is None:
        return True  # not known: it was a miss
    fresh = header.fresh_until - header.fetch_started
    return header.fresh_until - now <= lead(fresh, header.fetch_seconds)


def _run() -> None:
    never = threading.Event()
    while True:
        never.wait(INTERVAL)
        try:
            turn()
        finally:
            threads.close_connections()


_thread: threading.Thread | None = None
_lock = threading.Lock()


def start() -> None:
    """Keep values warm in this process from now on."""
    global _thread
    with _lock:
        if _thread is None:
            _thread = threads.start("warming", _run)


def _start_anew() -> None:
    global _thread, _lock
    started, _thread = _thread is not None, None
    _lock = threading.Lock()  # another thread may have held it at the fork
    if started:
        start()


threads.after_fork(_start_anew)
