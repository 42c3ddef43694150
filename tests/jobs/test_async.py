"""The verbs for coroutines: the same answers, and a caller may be cancelled."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from async_cache import (
    MISSING,
    AsyncCacheJob,
    FetchUnavailable,
    Status,
    ainvalidate_tags,
    cached,
)
from async_cache.signals import entry_rejected
from async_cache.stores.registry import get_store
from async_cache.testing import freeze
from tests.jobs.support import Shelf, heard

CALLS: list[str] = []


class Plain(AsyncCacheJob[str]):
    ttl = 60
    jitter = 0.0
    tags = ("all",)

    def fetch(self, name: str) -> str:
        CALLS.append(name)
        if name == "bad":
            raise ZeroDivisionError
        return f"{name} {len(CALLS)}"


class Coroutine(AsyncCacheJob[str]):
    ttl = 60
    jitter = 0.0
    tags = ("all",)

    async def fetch(self, name: str) -> str:
        await asyncio.sleep(0)
        CALLS.append(name)
        if name == "bad":
            raise ZeroDivisionError
        return f"{name} {len(CALLS)}"


@pytest.fixture(autouse=True)
def _reset() -> None:
    CALLS.clear()


@pytest.fixture(params=[Plain, Coroutine])
def job(request: pytest.FixtureRequest) -> Any:
    return request.param()


def test_every_verb_has_a_twin(alias: str, job: Any) -> None:
    async def story() -> None:
        assert await job.apeek("bob") is MISSING
        assert await job.aget("bob") == "bob 1"
        assert await job.aget("bob") == "bob 1"
        assert await job.apeek("bob") == "bob 1"
        assert (await job.aexplain("bob")).status is Status.FRESH
        assert await job.arefresh("bob") == "bob 2"
        await job.adelete("bob")
        assert await job.apeek("bob") is MISSING
        await job.aset("given", "bob")
        assert await job.aget("bob") == "given"
        await job.ainvalidate("bob")
        assert (await job.aexplain("bob")).status is Status.STALE
        assert await job.aget("bob") == "given"
        assert await job.aget("bob") == "bob 3", "the stale read has started a refresh"
        await ainvalidate_tags("all")
        assert (await job.aexplain("bob")).status is Status.STALE
        await job.aclear()
        assert await job.apeek("bob") is MISSING
        assert await job.arefresh_many([("x",)]) == 1
        assert await job.apeek("x") == "x 4"
        handle = await job.arefresh_later("x")
        assert await handle.await_(5)

    asyncio.run(story())


def test_sync_and_async_share_the_entries(alias: str, job: Any) -> None:
    assert job.get("bob") == "bob 1"
    assert asyncio.run(job.aget("bob")) == "bob 1"
    assert asyncio.run(job.aget("eve")) == "eve 2"
    assert job.get("eve") == "eve 2"


def test_a_fetch_that_is_a_coroutine_runs_for_get_too(alias: str) -> None:
    assert Coroutine().get("bob") == "bob 1"
    assert Coroutine().refresh("bob") == "bob 2"


def test_aget_many(alias: str, job: Any) -> None:
    async def story() -> None:
        for _ in range(2):
            first, second, third = await job.aget_many([("a",), ("bad",), ("a",)])
            assert first == third
            assert isinstance(second, ZeroDivisionError | FetchUnavailable)
        assert sorted(CALLS) == ["a", "bad"]
        with freeze() as clock:
            await job.aget_many([("s",), ("t",)])
            clock.advance(61)
            before = await job.aget_many([("s",), ("t",)])
            assert await job.aget_many([("s",), ("t",)]) != before

    asyncio.run(story())


def test_aget_many_of_coroutines_reads_once(alias: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Coroutine()

    async def story() -> None:
        asked = [(f"n{number}",) for number in range(20)]
        await job.aget_many(asked)
        store = job._runtime.async_store
        trips: list[int] = []
        real = store.read_many

        async def counted(handles: Any) -> Any:
            trips.append(len(handles))
            return await real(handles)

        monkeypatch.setattr(store, "read_many", counted)
        monkeypatch.setattr(store, "read", None)
        assert len(await job.aget_many(asked)) == 20
        assert trips == [20]

    asyncio.run(story())


def test_p3_many_cold_coroutines_fetch_once(alias: str, job: Any) -> None:
    async def story() -> None:
        values = await asyncio.gather(*(job.aget("bob") for _ in range(64)))
        assert set(values) == {"bob 1"}

    asyncio.run(story())
    assert CALLS == ["bob"]


def test_p3_cancelling_a_caller_does_not_cancel_the_shared_refresh(alias: str) -> None:
    class Held(AsyncCacheJob[str]):
        entered: asyncio.Event
        opened: asyncio.Event

        async def fetch(self) -> str:
            Held.entered.set()
            await Held.opened.wait()
            return "value"

    async def story() -> None:
        Held.entered, Held.opened = asyncio.Event(), asyncio.Event()
        first = asyncio.ensure_future(Held().aget())
        await Held.entered.wait()
        second = asyncio.ensure_future(Held().aget())
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        Held.opened.set()
        assert await asyncio.wait_for(second, 10) == "value"
        assert await Held().apeek() == "value"

    asyncio.run(story())


def test_p3_cancelling_a_waiter_leaves_the_others_alone(alias: str) -> None:
    class Held(AsyncCacheJob[str]):
        entered: asyncio.Event
        opened: asyncio.Event

        async def fetch(self) -> str:
            Held.entered.set()
            await Held.opened.wait()
            return "value"

    async def story() -> None:
        Held.entered, Held.opened = asyncio.Event(), asyncio.Event()
        first = asyncio.ensure_future(Held().aget())
        await Held.entered.wait()
        second, third = (asyncio.ensure_future(Held().aget()) for _ in range(2))
        await asyncio.sleep(0.01)
        second.cancel()
        Held.opened.set()
        assert list(await asyncio.wait_for(asyncio.gather(first, third), 10)) == ["value", "value"]

    asyncio.run(story())


def test_p2_a_stale_aget_answers_at_once(alias: str, shelf: Shelf, job: Any) -> None:
    async def story() -> None:
        with freeze() as clock:
            await job.aget("bob")
            clock.advance(61)
            assert await job.aget("bob") == "bob 1"
            assert await job.aget("bob") == "bob 1"

    asyncio.run(story())
    assert len(shelf.messages) == 1
    assert CALLS == ["bob"]


def test_max_stale_and_fetch_on_miss(alias: str, shelf: Shelf) -> None:
    async def story() -> None:
        late = Coroutine(max_stale=100)
        with freeze() as clock:
            await late.aget("bob")
            clock.advance(200)
            assert await late.aget("bob") == "bob 2"
            clock.advance(200)
            assert await late.aget_many([("bob",)]) == ["bob 3"]
        assert await Coroutine(fetch_on_miss=False).aget("new") is None

    asyncio.run(story())
    assert len(shelf.messages) == 1


def test_p9_errors_reach_the_caller(alias: str, job: Any) -> None:
    async def story() -> None:
        with pytest.raises(ZeroDivisionError):
            await job.aget("bad")
        with pytest.raises(FetchUnavailable):
            await job.aget("bad")

    asyncio.run(story())


def test_p7_bytes_that_do_not_open_are_a_miss(alias: str, job: Any) -> None:
    job.get("bob")
    get_store(alias).put([(job.explain("bob").key, b"x" * 200, 60.0)])
    with heard(entry_rejected) as events:
        assert asyncio.run(job.aget("bob")) == "bob 2"
    assert len(events) == 1


def test_disabled(local: str, settings: Any, job: Any) -> None:
    settings.ASYNC_CACHE = {**settings.ASYNC_CACHE, "ENABLED": False}
    assert asyncio.run(job.aget("a")) == "a 1"
    assert asyncio.run(job.aget("a")) == "a 2"
    assert asyncio.run(job.aget_many([("a",)])) == ["a 3"]


@cached(ttl=60)
async def doubled(number: int) -> int:
    CALLS.append(str(number))
    return 2 * number


def test_a_decorated_coroutine_function(alias: str) -> None:
    async def story() -> None:
        assert await doubled(2) == 4
        assert await doubled(number=2) == 4
        assert await doubled.refresh(2) == 4
        await doubled.ainvalidate(2)
        assert doubled.job.explain(2).status is Status.STALE

    asyncio.run(story())
    assert CALLS == ["2", "2"]
