"""P3 one refresh, P5 nothing stays stuck: many callers, threads and processes."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from itertools import pairwise
from typing import Any, ClassVar

import pytest
from django.core.cache import caches

from async_cache import AsyncCacheJob, FetchUnavailable, clock, guards
from async_cache.signals import refresh_committed, refresh_unanswered
from async_cache.testing import capture_refreshes
from tests.jobs.racers import EDGES
from tests.jobs.stale import Edge
from tests.jobs.support import SECONDS, Caller, Gate, Shelf, heard
from tests.workers import PATIENCE

CALLERS = 64


class Cold(AsyncCacheJob[str]):
    """Held until every caller of a round has come."""

    gate: Gate
    fetched: ClassVar[Counter[str]] = Counter()

    def fetch(self, name: str) -> str:
        Cold.fetched[name] += 1
        Cold.gate()
        return name


def test_p3_fifty_cold_stampedes_of_64_callers_are_fifty_fetches(alias: str) -> None:
    Cold.fetched.clear()
    arrive = threading.Barrier(CALLERS)
    values: list[str] = []

    def race() -> None:
        for number in range(50):
            if arrive.wait(SECONDS) == 0:
                Cold.gate = Gate()
                Cold.gate.opened.set()
            arrive.wait(SECONDS)
            values.append(Cold().get(f"n{number}"))

    racers = [Caller(race) for _ in range(CALLERS)]
    for racer in racers:
        racer.result()
    assert len(values) == 50 * CALLERS
    assert Cold.fetched == {f"n{number}": 1 for number in range(50)}


def test_p3_a_cold_key_is_fetched_once_while_64_wait(each_alias: str) -> None:
    Cold.fetched.clear()
    Cold.gate = Gate()
    callers = [Caller(lambda: Cold().get("one")) for _ in range(CALLERS)]
    assert Cold.gate.entered.wait(SECONDS)
    Cold.gate.opened.set()
    assert {caller.result() for caller in callers} == {"one"}
    assert Cold.fetched == {"one": 1}


def test_p3_64_stale_readers_dispatch_once(each_alias: str, shelf: Shelf) -> None:
    Edge().get(1)
    arrive = threading.Barrier(16)

    def read() -> int:
        arrive.wait(SECONDS)
        return Edge().get(1)

    callers = [Caller(read) for _ in range(16)]
    assert {caller.result() for caller in callers} == {1}
    assert len(shelf.messages) == 1


def test_p3_two_workers_with_one_message_fetch_once(alias: str, shelf: Shelf) -> None:
    """A message that is delivered twice, and another reader's, are dropped."""

    class Held(AsyncCacheJob[int]):
        ttl = 0
        calls = 0

        def fetch(self) -> int:
            Held.calls += 1
            if Held.calls == 2:
                gate()
            return Held.calls

    gate = Gate()
    job = Held()
    job.get()
    job.get()
    shelf.messages *= 2
    first = Caller(shelf.run)
    assert gate.entered.wait(SECONDS)
    assert shelf.run() == {"lost": 1}
    gate.opened.set()
    assert first.result() == {"fetched": 1}
    assert Held.calls == 2


def test_p3_a_message_for_what_is_fresh_again_is_dropped(alias: str, shelf: Shelf) -> None:
    job = Edge(ttl=60)
    job.get(1)
    job.invalidate(1)
    job.get(1)
    job.refresh(1)
    assert shelf.run() == {"found": 1}


@pytest.mark.slow
def test_p3_a_thousand_stale_edges_with_16_racers_in_2_processes(
    redis_caches: str, settings: Any
) -> None:
    shelf = "tests.jobs.support.Shelf"
    settings.ASYNC_CACHE = {"CACHE": "redis", "DISPATCHER": shelf, **PATIENCE}
    job = Edge()
    job.get_many([(number,) for number in range(EDGES)])
    caches = {"default": settings.CACHES["redis"], "redis": settings.CACHES["redis"]}
    chosen = {"CACHES": caches, "ASYNC_CACHE": settings.ASYNC_CACHE}
    racers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.jobs.racers"],
            env={**os.environ, "TEST_SETTINGS": json.dumps(chosen)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        answers = []
        for _ in range(EDGES // 10):
            for racer in racers:
                assert racer.stdout is not None
                assert racer.stdout.readline() == "ready\n"
            for racer in racers:
                assert racer.stdin is not None
                racer.stdin.write("go\n")
                racer.stdin.flush()
        for racer in racers:
            assert racer.stdout is not None
            answers.append(json.loads(racer.stdout.readline()))
            assert racer.wait(SECONDS) == 0
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()
    won = Counter(answers[0]["won"] + answers[1]["won"])
    assert len(won) == EDGES
    assert set(won.values()) == {1}, "each edge elects one"
    assert all(answer["won"] for answer in answers), "both processes took part"
    assert [answer["wrong"] for answer in answers] == [0, 0]


class SimulatedTime:
    """Time that the test moves, for the package and for the cache in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_800_000_000.0
        monkeypatch.setattr("time.time", lambda: self.now)
        monkeypatch.setattr(clock, "now", lambda: self.now)
        monkeypatch.setattr(clock, "monotonic", lambda: self.now)


def test_p5_a_queue_slower_than_the_grace_still_makes_progress(
    local: str, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """15 s in the queue against a grace of 10 s, for 10 minutes."""
    time = SimulatedTime(monkeypatch)
    job = Edge(ttl=5)
    arrivals: list[float] = []
    ages: list[float] = []
    try:
        job.get(1)
        with capture_refreshes() as seen:
            for _ in range(600):
                time.now += 1
                while len(arrivals) < len(shelf.messages):
                    arrivals.append(time.now)
                while arrivals and time.now - arrivals[0] >= 15:
                    arrivals.pop(0)
                    shelf.run()
                assert job.get(1) == 1
                ages.append(job.explain(1).age or 0)
    finally:
        guards.forget()
    assert len(seen.committed) >= 600 // 30, "a refresh at least every half minute"
    assert max(ages) <= 40, "the value never gets much older than the queue is slow"
    assert len(seen.dispatched) <= 2 * len(seen.committed) + 1, "and the queue is not flooded"


def test_p5_a_lost_message_is_sent_again_and_says_so(
    local: str, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = SimulatedTime(monkeypatch)
    job = Edge(ttl=5)
    sent: list[float] = []
    try:
        job.get(1)
        with heard(refresh_unanswered) as events:
            for second in range(200):
                time.now += 1
                job.get(1)
                if shelf.messages:
                    sent.append(second)
                    shelf.messages.clear()  # lost
        time.now += 1000
        job.get(1)
        shelf.run_all()
    finally:
        guards.forget()
    gaps = [later - earlier for earlier, later in pairwise(sent)]
    assert gaps[0] <= 12, "within seconds of the grace's end"
    assert gaps == sorted(gaps), "the grace doubles for each that got no answer"
    assert gaps[2] >= 35
    assert [event["attempts"] for event in events] == list(range(1, len(sent)))
    assert job.explain(1).dispatches == 0


def test_p5_a_flushed_cache_is_filled_again(alias: str, shelf: Shelf) -> None:
    job = Edge(ttl=60)
    job.get(1)
    job.invalidate(1)
    job.get(1)
    caches[alias].clear()
    assert job.get(1) == 1
    assert shelf.run() == {"found": 1}, "the old message does no harm"
    assert job.explain(1).status.value == "fresh"


def test_p5_an_event_loop_that_is_thrown_away_leaves_no_key_stuck(alias: str) -> None:
    class Hanging(AsyncCacheJob[str]):
        wait = 0.2
        lease = 0.2
        fetch_timeout = 0.2
        hang = True

        async def fetch(self) -> str:
            if Hanging.hang:
                await asyncio.sleep(3600)
            return "value"

    async def abandoned() -> None:
        task = asyncio.ensure_future(Hanging().aget())
        await asyncio.sleep(0.05)
        task.cancel()

    asyncio.run(abandoned())
    Hanging.hang = False

    def tries() -> str:
        for _ in range(20):
            try:
                return Hanging().get()
            except FetchUnavailable:
                continue
        raise AssertionError("the key is stuck")

    assert Caller(tries).result() == "value"


def test_p3_a_slow_fetch_keeps_its_lease_and_is_not_started_twice(alias: str) -> None:
    gate = Gate()

    class Slow(AsyncCacheJob[str]):
        lease = 1
        calls = 0

        def fetch(self) -> str:
            Slow.calls += 1
            gate()
            return "value"

    first = Caller(lambda: Slow().get())
    assert gate.entered.wait(SECONDS)
    wait = threading.Event()
    assert not wait.wait(2.2), "two lengths of the lease and more"
    assert Slow().explain().refresh == "fetching"
    with heard(refresh_committed) as events:
        gate.opened.set()
        assert first.result() == "value"
    assert len(events) == 1
    assert Slow.calls == 1
