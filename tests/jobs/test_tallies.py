"""Each read is counted once, by what it found."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from async_cache import AsyncCacheJob, call
from async_cache.exceptions import StoreUnavailable
from async_cache.tallies import MAX_TALLIES, Tally, all_tallies, tally_of
from async_cache.testing import freeze


class Twice(AsyncCacheJob[int]):
    ttl = 60
    grace = 600
    dispatcher = "tests.jobs.support.Shelf"

    def fetch(self, n: int) -> int:
        return 2 * n


class Gone(AsyncCacheJob[int]):
    negative = (LookupError,)

    def fetch(self) -> int:
        raise LookupError


def counted(tally: Tally) -> dict[str, int]:
    return {name: getattr(tally, name) for name in ("fresh", "stale", "miss", "error")}


def aget(job: Any, *args: Any) -> Any:
    return asyncio.run(job.aget(*args))


def get_many(job: Any, *args: Any) -> Any:
    return job.get_many([args])[0]


def aget_many(job: Any, *args: Any) -> Any:
    return asyncio.run(job.aget_many([args]))[0]


def get(job: Any, *args: Any) -> Any:
    return job.get(*args)


@pytest.mark.parametrize("read", [get, aget, get_many, aget_many])
def test_each_way_of_reading_counts(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Twice()
    tally = tally_of(job.job_name)
    before = counted(tally)
    age = tally.age

    def new() -> dict[str, int]:
        return {name: n - before[name] for name, n in counted(tally).items() if n != before[name]}

    with freeze() as clock:
        assert read(job, 1) == 2
        assert new() == {"miss": 1}
        clock.advance(10)
        assert read(job, 1) == 2
        assert new() == {"miss": 1, "fresh": 1}
        clock.advance(90)
        assert read(job, 1) == 2
        assert new() == {"miss": 1, "fresh": 1, "stale": 1}
        assert tally.age - age == pytest.approx(110)
        job.peek(1)
        job.explain(1)
        assert new() == {"miss": 1, "fresh": 1, "stale": 1}

    def fails(*_: Any) -> Any:
        raise StoreUnavailable("no answer")

    for store in (job._runtime.store, job._runtime.async_store):
        monkeypatch.setattr(store, "read", fails)
        monkeypatch.setattr(store, "read_many", fails)
    assert read(job, 7) == 14
    assert new() == {"miss": 1, "fresh": 1, "stale": 1, "error": 1}


def test_a_negative_answer_is_an_answer() -> None:
    job = Gone()
    tally = tally_of(job.job_name)
    for _ in range(3):
        with pytest.raises(LookupError):
            job.get()
    assert counted(tally) == {"fresh": 2, "stale": 0, "miss": 1, "error": 0}


def test_jobs_past_the_bound_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    known = len(all_tallies())
    monkeypatch.setattr("async_cache.tallies.MAX_TALLIES", known + 1)
    assert known < MAX_TALLIES
    first, second, third = (tally_of(f"tests.bound.{n}") for n in range(3))
    assert first is tally_of("tests.bound.0")
    assert second is third is tally_of("")
    for name in ("tests.bound.0", ""):
        monkeypatch.delitem(__import__("async_cache.tallies", fromlist=["x"])._tallies, name)


def test_calls_in_every_spelling_are_one_job() -> None:
    job = Twice()
    tally = tally_of(job.job_name)
    before = tally.miss
    job.get_many([(5,), {"n": 5}, call(5)])
    assert tally.miss == before + 1
