"""Share the counts of this process: one slot of the cache a process, written every few seconds.

A process writes all it has counted, not what is new, so a write that is lost or repeated changes
nothing. Slots are taken without a lock: who finds another's name in its own slot moves, and takes
along what it has counted. Slots of processes that have ended are continued by those that start.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import random
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from async_cache import clock, conf, threads
from async_cache.exceptions import StoreUnavailable
from async_cache.monitor.conf import SECTION, get_monitor_settings
from async_cache.monitor.counting import collect
from async_cache.monitor.statistics import Counts, to_number
from async_cache.signals import error_name
from async_cache.stores.base import Store
from async_cache.stores.registry import get_store

__all__ = ["Slot", "flush", "flush_at_end", "read_slots", "start"]

logger = logging.getLogger("async_cache")

SILENT_SECONDS: Final = 60.0
"""Without a word for so long, and three intervals, a process counts as ended."""
MAX_SIZE: Final = 1024 * 1024
"""Bytes of a slot that are read."""


@dataclass(slots=True)
class Slot:
    """What a process has written.

    Attributes:
        owner: Its random name.
        written: When, seconds since the epoch.
        since: When the counting began.
        jobs: Its counts, and those of the process that it continues.
        continues: The name of that process; empty for none.
    """

    owner: str
    written: float
    since: float
    jobs: Mapping[str, Counts] = field(default_factory=dict)
    continues: str = ""

    def dump(self) -> bytes:
        """Return its bytes."""
        jobs = {job: counts.to_plain() for job, counts in self.jobs.items()}
        plain = {"owner": self.owner, "written": self.written, "since": self.since, "jobs": jobs}
        return json.dumps({**plain, "continues": self.continues}).encode()

    @classmethod
    def load(cls, raw: bytes | None) -> Slot | None:
        """Return a slot from its bytes; None when nobody wrote them this way."""
        if raw is None or not 0 < len(raw) <= MAX_SIZE:
            return None
        try:
            plain = json.loads(raw)
            jobs = {str(job): Counts.from_plain(counts) for job, counts in plain["jobs"].items()}
            times = to_number(plain["written"]), to_number(plain["since"])
            return cls(str(plain["owner"]), *times, jobs, str(plain["continues"]))
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
            return None


def _store() -> Store:
    return get_store(get_monitor_settings().cache or conf.get_settings().cache)


def _name(number: int) -> str:
    return f"{conf.get_settings().key_prefix}:-t:{number}"


def read_slots() -> dict[int, Slot]:
    """Return the slots of all processes.

    Raises:
        StoreUnavailable: The cache does not answer.
    """
    store, numbers = _store(), range(get_monitor_settings().processes)
    raws = store.read(store.prepare([_name(number) for number in numbers]))
    found = {number: Slot.load(raw) for number, raw in zip(numbers, raws, strict=True)}
    return {number: slot for number, slot in found.items() if slot is not None}


class Sharer:
    """Writes the counts of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._name = os.urandom(8).hex()
        self._since = clock.now()
        self._number: int | None = None
        # Of the process whose slot this one continues; ours once a read has found our name there.
        self._inherited: Mapping[str, Counts] = {}
        self._continues = ""
        self._confirmed = False
        # What another process tells for us, since it took us for ended.
        self._given: Mapping[str, Counts] = {}
        self._last: tuple[float, Any] | None = None

    def flush(self) -> bool:
        """Write what was counted, where there is something new; False when no slot is free.

        Raises:
            StoreUnavailable: The cache does not answer.
        """
        with self._lock:
            jobs = collect()
            said = {job: counts.to_plain() for job, counts in jobs.items()}
            settings = get_monitor_settings()
            moment = clock.now()
            if self._last is None and not jobs:
                return True
            if not _store().writable_now:
                return True  # within a transaction that the cache shares: later
            if self._last is not None and self._last[1] == said:
                # Nothing new: a sign of life is enough, and not each time.
                quiet = moment - self._last[0] < SILENT_SECONDS / 2
                if quiet:
                    return True
            if not self._keep_slot() and not self._take_slot(moment, settings.flush):
                return False
            assert self._number is not None
            for job, counts in self._given.items():
                jobs.setdefault(job, Counts()).take_away(counts)
            for job, counts in self._inherited.items():
                jobs.setdefault(job, Counts()).merge(counts)
            slot = Slot(self._name, moment, self._since, jobs, self._continues)
            _store().put([(_name(self._number), slot.dump(), settings.expires)])
            self._last = moment, said
            return True

    def _keep_slot(self) -> bool:
        """Tell whether the slot is still ours; what was inherited is, once that was seen."""
        if self._number is None:
            return False
        store = _store()
        [raw] = store.read(store.prepare([_name(self._number)]))
        slot = Slot.load(raw)
        if slot is not None and slot.owner != self._name:
            if not self._confirmed:
                self._inherited, self._continues = {}, ""
            elif slot.continues == self._name and self._last is not None:
                # This process was stopped for so long that another has taken over its counts.
                told = self._last[1].items()
                self._given = {job: Counts.from_plain(plain) for job, plain in told}
                self._inherited, self._continues = {}, ""
            self._number = None
            return False
        self._confirmed = True
        return True

    def _take_slot(self, moment: float, interval: float) -> bool:
        slots = read_slots()
        silent = max(SILENT_SECONDS, 3 * interval)
        ended = [n for n, slot in slots.items() if moment - slot.written > silent]
        free = [n for n in range(get_monitor_settings().processes) if n not in slots]
        if ended and not self._inherited:
            self._number = random.choice(ended)
            self._inherited = slots[self._number].jobs
            self._continues = slots[self._number].owner
            self._since = min(self._since, slots[self._number].since)
            self._confirmed = False
        elif free:
            self._number = random.choice(free)
        else:
            return False
        return True


_sharer = Sharer()
_thread: threading.Thread | None = None
_lock = threading.Lock()
_warned = False


def flush() -> None:
    """Write what this process has counted.

    Raises:
        StoreUnavailable: The cache does not answer.
    """
    global _warned
    if not _sharer.flush() and not _warned:
        _warned = True
        logger.warning(
            "More processes count than may share their counts: raise "
            'ASYNC_CACHE["MONITOR"]["PROCESSES"].'
        )


def _try_flush() -> None:
    try:
        flush()
    except StoreUnavailable:
        return  # announced by the store; the next flush tells all


def _run() -> None:
    never = threading.Event()
    while True:
        never.wait(SECTION.current_or_partial().flush)
        try:
            _try_flush()
        except Exception as error:  # noqa: BLE001 - told; nobody would start this thread again
            logger.error("The statistics were not shared: %s.", error_name(error))
        finally:
            threads.close_connections()


def start() -> None:
    """Share the counts of this process from now on."""
    global _thread
    if _thread is not None:
        return
    with _lock:
        if _thread is None:
            _thread = threads.start("statistics", _run)


def _start_anew() -> None:
    global _sharer, _thread, _lock
    counted, _thread = _thread is not None, None
    _lock = threading.Lock()  # another thread may have held it at the fork
    _sharer = Sharer()
    if counted:
        start()


def _end_of_child(**_: object) -> None:
    if _thread is not None:
        _try_flush()


def flush_at_end() -> None:
    """Have what this process has counted written when it ends."""
    atexit.register(_try_flush)
    # The processes of a worker's pool run nothing at exit. Only a worker needs this, and it has
    # imported Celery by now.
    celery = sys.modules.get("celery.signals")
    if celery is not None:
        celery.worker_process_shutdown.connect(_end_of_child, weak=False, dispatch_uid=__name__)


threads.after_fork(_start_anew)
