"""Calls that are read are refreshed before they turn stale; others are not."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from async_cache import AsyncCacheJob, addresses, guards, publisher, rota
from async_cache.keys import Call
from async_cache.schedules import warming
from async_cache.schedules.warming import lead, turn
from async_cache.testing import freeze
from tests.jobs.support import Shelf


class Warm(AsyncCacheJob[str]):
    ttl = 60
    grace = 6000
    jitter = 0
    keep_warm = 600
    dispatcher = "tests.jobs.support.Shelf"

    def fetch(self, name: str) -> str:
        return f"{name} fetched"


class Fleeting(Warm):
    ttl = 2
    dispatcher = "thread"


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    guards.forget()
    yield
    guards.forget()


def shelf() -> Shelf:
    publisher.drain(5)
    found = Warm()._runtime.dispatcher
    assert isinstance(found, Shelf)
    return found


def test_what_is_read_is_refreshed_in_time() -> None:
    job = Warm()
    with freeze() as clock:
        for name in ("read", "unread"):
            job.set("old", name)
        job.get("read")
        clock.advance(50)
        assert turn() == 0
        clock.advance(5)
        assert turn() == 1
        assert turn() == 0  # asked for already
        shelf().run_all()
        assert job.explain("read").age == 0
        assert job.explain("unread").age == 55
        clock.advance(10)
        assert job.get("read") == "read fetched"
        assert not shelf().messages  # it was fresh all the time


def test_what_nobody_reads_any_more_is_left_alone() -> None:
    job = Warm()
    with freeze() as clock:
        job.set("old", "x")
        job.get("x")
        for _ in range(12):
            clock.advance(55)
            turn()
            shelf().run_all()
        assert job.explain("x").age == pytest.approx(60 + 0, abs=56)
        clock.advance(55)
        assert turn() == 0
        clock.advance(200)
        assert turn() == 0


def test_another_process_had_it_refreshed() -> None:
    job = Warm()
    with freeze() as clock:
        job.set("old", "x")
        job.get("x")
        clock.advance(56)
        job.set("by another", "x")
        assert turn() == 0
        clock.advance(56)
        assert turn() == 1
        shelf().run_all()


def test_an_invalidated_value_is_refreshed_when_its_turn_comes() -> None:
    job = Warm()
    with freeze() as clock:
        job.set("old", "x")
        job.get("x")
        job.delete("x")
        clock.advance(56)
        assert turn() == 0
        job.set("old", "x")
        job.get("x")
        clock.advance(56)
        job.invalidate("x")
        assert turn() == 1
        shelf().run_all()
        assert job.peek("x") == "x fetched"


def test_a_first_read_that_had_to_fetch_counts_too() -> None:
    job = Warm()
    with freeze() as clock:
        assert job.get("x") == "x fetched"  # a miss
        assert turn() == 0
        clock.advance(56)
        assert turn() == 1
        shelf().run_all()


def test_a_miss_is_not_looked_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Warm()
    runtime = job._runtime
    monkeypatch.setattr(rota, "runtimes", lambda: [runtime])
    looked: list[bool] = []
    with freeze() as clock:
        job.get("gone")
        job.delete("gone")
        address = runtime.address(("gone",), {})
        for _ in range(4):
            clock.advance(12)  # a fetch may take 30
            looked.append(address in runtime.read_since(clock.now() - 600))
            turn()
    assert looked == [True, True, True, False]


def test_coroutines_read_too() -> None:
    job = Warm()
    with freeze() as clock:
        job.set("old", "one")
        job.set("old", "many")
        asyncio.run(job.aget("one"))
        asyncio.run(job.aget_many([("many",)]))
        clock.advance(56)
        assert turn() == 2
        shelf().run_all()


def test_what_a_full_map_has_dropped_is_still_warmed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "MAX_ADDRESSES", 8)
    job = Warm()
    with freeze() as clock:
        job.set("old", "read")
        for n in range(9):  # as the messages of a worker: known by digest only
            job._runtime.address_of(Call((f"other {n}",)), ())
        assert job.get("read") == "old"
        clock.advance(56)
        assert turn() == 1
        shelf().run_all()


def test_one_job_that_fails_does_not_keep_the_others_cold(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Bad(Warm):
        def tags(self, name: str) -> Any:
            return ()

    bad, job = Bad(), Warm()
    with freeze() as clock:
        for one in (bad, job):
            one.set("old", "x")
            one.get("x")
        clock.advance(56)
        kept = {bad._runtime: 0, job._runtime: 1}
        monkeypatch.setattr(rota, "runtimes", lambda: list(kept))
        monkeypatch.setattr(bad._runtime, "read_since", lambda moment: 1 / 0)
        assert turn() == 1
        shelf().run_all()
    assert "Keeping" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_many_at_once_and_by_each_way_of_reading() -> None:
    job = Warm()
    with freeze() as clock:
        for n in range(20):
            job.set("old", str(n))
        job.get_many([(str(n),) for n in range(20)])
        clock.advance(56)
        assert turn() == 20
        shelf().run_all()


@pytest.mark.parametrize(
    ("fresh", "took", "seconds"),
    [(600, 0.1, 60), (60, 0.1, 6), (60, 5, 17), (4, 1, 2), (60, 60, 30)],
)
def test_how_long_before(fresh: float, took: float, seconds: float) -> None:
    assert lead(fresh, took) == pytest.approx(seconds)


def test_the_thread_keeps_a_value_fresh_after_a_fork(redis_caches: Any, settings: Any) -> None:
    settings.ASYNC_CACHE = {"CACHE": "redis"}
    job = Fleeting()
    pid = os.fork()
    if pid == 0:  # a web server's child, whose parent had the thread
        status = 1
        try:
            os.setsid()
            rota.watch(warming.start)
            assert job.get("x") == "x fetched"
            child = os.fork()
            if child == 0:
                seen = 0
                end = time.monotonic() + 60
                while seen < 3 and time.monotonic() < end:
                    told = job.explain("x")
                    if job.get("x") and told.status.value == "stale":
                        os._exit(2)
                    # Only the thread can have made it younger: no read has found it stale.
                    seen += told.age is not None and told.age < 0.2
                    threading.Event().wait(0.1)
                os._exit(0 if seen >= 3 else 3)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
