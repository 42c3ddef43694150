"""Row "clocks": the clock of one process is wrong, or jumps.

`check_worker` lets that be the worker, `check_reader` the process that reads. Leases go by the
clock of the Redis server, waits by clocks that do not jump.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any
from unittest import mock

import pytest

from tests.faults.breaks import Break, caught
from tests.faults.fleet import Fleet, Reader, fleet_over
from tests.faults.scale import count, judge
from tests.faults.worker_jobs import FETCHED_AT, LEASE, SKEWS, Timed

KEYS = ["key0", "key1", "key2", "key3"]


@pytest.fixture
def fleet(settings: Any, redis_caches: str) -> Iterator[Fleet]:
    settings.ASYNC_CACHE = {"CACHE": "redis", "DISPATCHER": "celery", "IO_TIMEOUT": 10}
    with fleet_over(redis_caches) as made:
        yield made


def check_worker(fleet: Fleet, skew: str) -> None:
    """Let a worker's clock be wrong."""
    (worker,) = fleet.start(skew=skew)
    watch(fleet, f"clocks/worker {skew}")
    fleet.lose(worker)


def check_reader(fleet: Fleet, skew: str) -> None:
    """Let the clock of the process that reads be wrong."""
    if not fleet.workers:
        fleet.start()
    with mock.patch("async_cache.clock.now", SKEWS[skew]):
        watch(fleet, f"clocks/reader {skew}")


def watch(fleet: Fleet, label: str) -> None:
    """Read for some leases; judge when the keys were fetched."""
    job, seconds = Timed(), count(4, 5) * LEASE
    for key in KEYS:
        job.delete(key)
        job.get(key)
    fleet.board.delete(FETCHED_AT)
    with Reader(job, KEYS) as reader:
        begun = time.monotonic()
        time.sleep(seconds)
        ended = time.monotonic()
    assert not reader.errors, reader.errors[:3]
    fetches: dict[str, list[tuple[float, float]]] = defaultdict(list)
    told: Any = fleet.board.lrange(FETCHED_AT, 0, -1)
    for one in told:
        key, start, end = one.split()
        fetches[key].append((float(start), float(end)))
    longest = most = 0.0
    for key in KEYS:
        ordered = sorted(fetches[key])
        for (_, end), (start, _) in pairwise(ordered):
            assert start >= end, "two fetches of one key at a time"
        moments = [begun, *(start for start, _ in ordered), ended]
        longest = max(longest, *(later - earlier for earlier, later in pairwise(moments)))
        most = max(most, len(ordered))
    bound = (ended - begun) / LEASE + 1
    judge(label, "refreshes of a key", most, bound, generous=bound)
    bound = job.ttl + LEASE + 1
    judge(label, "longest time without one, s", longest, bound, generous=bound + 5)
    assert most, "no key was refreshed"


def test_a_reader_whose_clock_jumps(fleet: Fleet) -> None:
    check_reader(fleet, "jumping")


@pytest.mark.faults
def test_readers_whose_clock_is_wrong(fleet: Fleet) -> None:
    check_reader(fleet, "an hour ahead")
    check_reader(fleet, "an hour behind")


@pytest.mark.faults
@pytest.mark.parametrize("skew", ["an hour ahead", "jumping"])
def test_a_worker_whose_clock_is_wrong(fleet: Fleet, skew: str) -> None:
    check_worker(fleet, skew)


# --- breaks -------------------------------------------------------------------------------------


@pytest.mark.faults
@pytest.mark.parametrize(
    ("broken", "skew"),
    [
        (
            Break("clocks are trusted", "async_cache.reading.distrusted", lambda *given: 0.0),
            "an hour ahead",
        ),
        (
            Break("messages live for an hour", "async_cache.press.MESSAGE_LIFE", 3600.0),
            "an hour behind",
        ),
    ],
    ids=str,
)
def test_the_check_notices(fleet: Fleet, broken: Break, skew: str) -> None:
    caught(broken, lambda: check_reader(fleet, skew))
