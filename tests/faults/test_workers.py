"""Row "workers": whatever ends or stops a worker in mid-refresh, the key is soon fresh again.

`check_kills` kills children, `check_lost_workers` whole workers, `check_zombies` stops children and
lets them go on when another has refreshed, `check_pause` does so with a worker as a whole. A reader
reads all keys meanwhile and always gets a value at once. Of the two workers one acknowledges its
messages late.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import pytest

from async_cache import guards
from tests.dispatchers.support import eventually
from tests.faults.breaks import Break, caught
from tests.faults.fleet import Fleet, Reader, Victim, fleet_over
from tests.faults.scale import count, judge, patience
from tests.faults.worker_jobs import FETCH_SECONDS, LEASE, ORDERS, REFUSED, Told, in_workers

FRESH_AGAIN = LEASE + FETCH_SECONDS + 1


@pytest.fixture
def fleet(settings: Any, redis_caches: str) -> Iterator[Fleet]:
    # How a busy machine answers is not the matter here.
    settings.ASYNC_CACHE = {"CACHE": "redis", "DISPATCHER": "celery", "IO_TIMEOUT": 10}
    with fleet_over(redis_caches) as made:
        yield made


def stored(name: str, number: int) -> list[str]:
    """Store fresh values; return their keys."""
    keys = [f"{name}{n}" for n in range(number)]
    for key in keys:
        Told().set(f"{key} 0 0", key)
    return keys


def check_reader(reader: Reader, label: str) -> None:
    assert not reader.errors, reader.errors[:3]
    judge(label, "longest read, ms", 1000 * reader.longest, 250, generous=1000)


def check_kills(fleet: Fleet, kills: int, together: int = 4) -> None:
    """Kill children in the middle of their fetches, a few at a time."""
    label, seconds = "workers/child killed", 0.0
    keys = stored("killed", together)
    with Reader(Told(), keys) as reader:
        for _ in range(0, kills, together):
            before = dict(reader.values)
            victims = fleet.begin(keys)
            for victim in victims:
                os.kill(victim.pid, signal.SIGKILL)
            seconds = max(seconds, fresh_again(reader, before, victims))
        judge(label, "fresh again, s", seconds, FRESH_AGAIN, generous=FRESH_AGAIN + 6)
    check_reader(reader, label)


def fresh_again(reader: Reader, before: dict[str, Any], victims: Sequence[Victim]) -> float:
    """Wait until the keys of victims that are no more have new values; return how long it took."""
    begun = time.monotonic()
    keys = [victim.key for victim in victims]
    until = reader.wait(before, keys, patience(20))
    for victim in victims:
        assert reader.values[victim.key].split()[1] != str(victim.number), "the dead has answered"
    return until - begun


def check_lost_workers(fleet: Fleet, kills: int) -> None:
    """Kill workers, their main process and their group in turn, while another goes on."""
    label, seconds = "workers/worker killed", 0.0
    keys = stored("lost", 1)
    with Reader(Told(), keys) as reader:
        for number in range(kills):
            if len(fleet.workers) < 2:
                fleet.start(late=[number % 4 < 2])
            before = dict(reader.values)
            victims = fleet.begin(keys)
            worker = fleet.worker_of(victims[0])
            if number % 2:
                os.kill(worker.pid, signal.SIGKILL)
            else:
                os.killpg(worker.pid, signal.SIGKILL)
            seconds = max(seconds, fresh_again(reader, before, victims))
            fleet.lose(worker)
        judge(label, "fresh again, s", seconds, FRESH_AGAIN, generous=FRESH_AGAIN + 6)
    check_reader(reader, label)


def check_prefetched(fleet: Fleet) -> None:
    """Kill a worker that has taken more messages than it has begun: none of the keys is stuck."""
    label, grace = "workers/prefetched", 2.0
    (worker,) = fleet.workers
    keys = stored("taken", 12)
    with (
        Reader(Told(), keys) as reader,
        # What was taken and not begun is sent again after the grace of its queued lease.
        mock.patch.object(Told()._runtime, "queued_grace", grace),
    ):
        before = dict(reader.values)
        fleet.begin(keys[:4])
        fleet.board.hset(ORDERS, mapping=dict.fromkeys(keys, "wait"))
        for key in keys[4:]:
            Told().invalidate(key)
        eventually(lambda: len(held(keys)) == len(keys) and fleet.waiting() == 0)
        fleet.lose(worker)
        fleet.board.delete(ORDERS)
        fleet.start()
        begun = time.monotonic()
        seconds = reader.wait(before, keys, patience(20)) - begun
        bound = grace + 1 + 2 + len(keys) / 4 * FETCH_SECONDS
        judge(label, "fresh again, s", seconds, bound, generous=bound + 10)
    check_reader(reader, label)


def held(keys: Sequence[str]) -> list[str]:
    """Return the keys whose lease is held."""
    runtime = Told()._runtime
    holders = runtime.store.holders([runtime.address((key,), {}).lease for key in keys])
    return [key for key, holder in zip(keys, holders, strict=True) if holder is not None]


def check_zombies(fleet: Fleet, zombies: int, together: int = 4) -> None:
    """Stop children for two leases, refresh without them, let them go on: they store nothing."""
    label = "workers/zombies"
    keys = stored("zombie", together)
    refused = 0
    with Reader(Told(), keys) as reader:
        for _ in range(0, zombies, together):
            fleet.board.delete(REFUSED)
            before = dict(reader.values)
            victims = fleet.begin(keys)
            begun = time.monotonic()
            for victim in victims:
                os.kill(victim.pid, signal.SIGSTOP)
            try:
                fresh_again(reader, before, victims)
                time.sleep(max(0.0, begun + 2 * LEASE - time.monotonic()))
            finally:
                for victim in victims:
                    os.kill(victim.pid, signal.SIGCONT)
            after = dict(reader.values)
            fleet.release(victims)
            refused += refusals(fleet, len(victims))
            reader.sweep()
            assert reader.values == after, "a zombie has overwritten what is newer"
    check_reader(reader, label)
    assert refused >= zombies


def refusals(fleet: Fleet, number: int) -> int:
    """Wait for so many refused commits; return how many there were."""
    deadline = time.monotonic() + patience(10)
    told: list[str] = []
    while len(told) < number and (left := deadline - time.monotonic()) > 0:
        one = fleet.take(REFUSED, left)
        told += [one.split()[1]] if one else []
    assert told == ["lost"] * number, f"{number} zombies were refused as {told}"
    return number


def check_pause(fleet: Fleet) -> None:
    """Stop a worker as a whole for two leases while another goes on; then let it go on."""
    label, grace = "workers/worker stopped", 2.0
    keys = stored("paused", 1)
    fleet.board.delete(REFUSED)
    with Reader(Told(), keys) as reader, mock.patch.object(Told()._runtime, "queued_grace", grace):
        before = dict(reader.values)
        victims = fleet.begin(keys)
        worker = fleet.worker_of(victims[0])
        worker.pause()
        try:
            # The next message may be on its way to the worker that was just stopped: it is sent
            # again when its grace is over.
            seconds = fresh_again(reader, before, victims)
            judge(label, "fresh again, s", seconds, FRESH_AGAIN + grace, generous=20)
            time.sleep(max(0.0, 2 * LEASE - seconds))
        finally:
            worker.resume()
        after = dict(reader.values)
        fleet.release(victims)
        refusals(fleet, 1)
        assert reader.values == after
    check_reader(reader, label)


def check_term(fleet: Fleet) -> None:
    """Ask a worker to end while it fetches: it stores what it has begun, others do the rest."""
    keys = stored("asked", 3)
    with Reader(Told(), keys) as reader:
        before = dict(reader.values)
        victims = fleet.begin(keys)
        worker = fleet.worker_of(victims[0])
        os.kill(worker.pid, signal.SIGTERM)
        worker.wait_for(r"Warm shutdown")
        fleet.release(victims)
        begun = time.monotonic()
        until = reader.wait(before, keys, patience(20))
        judge("workers/asked to end", "fresh again, s", until - begun, 1, generous=10)
        for victim in victims:
            assert reader.values[victim.key].split()[1] == str(victim.number), "its work was lost"
        eventually(lambda: not worker.running)
    fleet.lose(worker)
    check_reader(reader, "workers/asked to end")


def test_whatever_ends_or_stops_a_worker(fleet: Fleet) -> None:
    fleet.start(3, concurrency=count(4, 6), late=[True, False])
    check_kills(fleet, count(4, 96), count(4, 8))
    check_zombies(fleet, count(4, 100), count(4, 10))
    check_pause(fleet)
    check_term(fleet)
    check_lost_workers(fleet, count(1, 4))


@pytest.mark.faults
def test_what_a_worker_had_taken_and_not_begun(fleet: Fleet) -> None:
    fleet.start()
    check_prefetched(fleet)


# --- breaks -------------------------------------------------------------------------------------


def _for_ever(entry_key: str, seconds: float) -> None:
    guards.guard(entry_key, *guards._guards[entry_key][:2], 60.0)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (in_workers("commits are not fenced"), check_zombies),
        (in_workers("a lease is long"), check_kills),
        (Break("guards do not end", "async_cache.guards.extend", _for_ever), check_kills),
    ],
    ids=lambda value: str(value) if isinstance(value, Break) else value.__name__,
)
def test_the_checks_notice(
    fleet: Fleet, broken: Break, check: Callable[[Fleet, int], None]
) -> None:
    def begin_and_check() -> None:
        fleet.start(concurrency=6)
        check(fleet, 4)

    caught(broken, begin_and_check)
