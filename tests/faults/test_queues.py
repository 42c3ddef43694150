"""Row "queues": nobody takes the messages, or they are taken too late.

`check_no_worker` lets stale keys be read while there is no worker, and then starts one.
`check_slow_queue` has one worker that takes each message later than its grace ends. Guards are
forgotten all the time: it is as if many processes read.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest

from async_cache import guards, signals
from async_cache.stores.scripts import CLAIM, Script
from async_cache.targets import QUEUED_GRACE
from tests.dispatchers.support import eventually, heard
from tests.faults.breaks import Break, caught
from tests.faults.fleet import Fleet, Reader, fleet_over
from tests.faults.scale import count, judge, patience
from tests.faults.worker_jobs import Queued, SlowlyQueued, in_workers

BUSY = 5.0
"""A reader of many keys shares this process with what counts and publishes."""


@pytest.fixture
def fleet(settings: Any, redis_caches: str) -> Iterator[Fleet]:
    settings.ASYNC_CACHE = {"CACHE": "redis", "DISPATCHER": "celery", "IO_TIMEOUT": 10}
    with fleet_over(redis_caches) as made:
        yield made


@contextmanager
def many_processes(seconds: float) -> Iterator[None]:
    """Let each read ask again, every so many seconds, as the first one of another process does."""
    ended = threading.Event()

    def forget() -> None:
        while not ended.wait(seconds):
            guards.forget()

    thread = threading.Thread(target=forget, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(10)


def check_no_worker(fleet: Fleet) -> None:
    """Read stale keys for six graces without a worker, then start one."""
    label, job = "queues/no worker", Queued()
    grace = count(500, round(1000 * QUEUED_GRACE)) / 1000
    keys = [f"key{number}" for number in range(count(100, 1000))]
    for key in keys:
        job.set(f"{key} 0", key)
        job.invalidate(key)
    with (
        heard(signals.refresh_dispatched) as sent,
        mock.patch.object(job._runtime, "queued_grace", grace),
        Reader(job, keys) as reader,
    ):
        with many_processes(grace / 5):
            begun = time.monotonic()
            time.sleep(6 * grace)
            messages = Counter(one["key"] for one in sent)
            late = (time.monotonic() - begun) / (6 * grace)
        assert len(messages) == len(keys), "a key was not asked for"
        # Doubling: sent at 0, 1, 3 and 7 graces.
        bound = 3 if late < 7 / 6 else 4
        judge(label, "messages a key", max(messages.values()), bound, generous=bound)
        assert min(messages.values()) > 1, "a message that got no answer was not sent again"
        assert not fleet.fetched()
        assert not reader.errors, reader.errors[:3]
        judge(label, "longest read, ms", 1000 * reader.longest, 250, generous=1000 * BUSY)
        (running,) = fleet.start()
        begun = time.monotonic()
        eventually(lambda: len(fleet.fetched()) == len(keys), 60)
        judge(label, "all fresh, s", time.monotonic() - begun, 10, generous=60)
        eventually(lambda: running.log.count(" succeeded in ") >= len(sent), 60)
    assert fleet.waiting() == 0
    twice = [key for key, number in fleet.fetched().items() if number > 1]
    assert not twice, f"{len(twice)} keys were fetched again"
    assert not reader.errors, reader.errors[:3]


def check_slow_queue(fleet: Fleet) -> None:
    """Let each message wait for longer than its grace: all keys are refreshed, again and again."""
    label, job, grace = "queues/slow", SlowlyQueued(), 0.2
    keys = [f"key{number}" for number in range(20)]
    rounds = count(2, 4)
    (running,) = fleet.start(concurrency=1)
    for key in keys:
        job.set(f"{key} 0", key)
    with (
        mock.patch.object(job._runtime, "queued_grace", grace),
        Reader(job, keys) as reader,
        many_processes(grace),
    ):
        eventually(lambda: _least(fleet, keys) >= 1, patience(30))
        begun, before = time.monotonic(), _least(fleet, keys)
        waiting = fleet.waiting()
        eventually(lambda: _least(fleet, keys) >= before + rounds, patience(60))
        seconds = (time.monotonic() - begun) / rounds
    assert running.running
    assert waiting >= len(keys) / 2, "the queue was not slow"
    assert not reader.errors, reader.errors[:3]
    judge(label, "seconds between two refreshes of a key", seconds, 5, generous=20)


def _least(fleet: Fleet, keys: list[str]) -> int:
    fetched = fleet.fetched()
    return min(fetched.get(key, 0) for key in keys)


def test_stale_keys_without_a_worker(fleet: Fleet) -> None:
    check_no_worker(fleet)


def test_a_queue_slower_than_the_grace(fleet: Fleet) -> None:
    check_slow_queue(fleet)


# --- breaks -------------------------------------------------------------------------------------

_eager_claim = Script(CLAIM.source.replace(b"length * 2 ^ math.min(attempts, 5)", b"length"))


@pytest.mark.faults
@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (
            Break("graces do not grow", "async_cache.stores.exchanges.CLAIM", _eager_claim),
            check_no_worker,
        ),
        (in_workers("every message is obeyed"), check_no_worker),
        (in_workers("no queued lease is taken over"), check_slow_queue),
    ],
    ids=lambda value: str(value) if isinstance(value, Break) else value.__name__,
)
def test_the_checks_notice(fleet: Fleet, broken: Break, check: Callable[[Fleet], None]) -> None:
    caught(broken, lambda: check(fleet))
