"""Reads: what they wait for, what they raise, what they ask for."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from async_cache import MISSING, NOT_MODIFIED, AsyncCacheJob, conf, invalidate_tags, signals
from async_cache.entry import Status
from async_cache.testing import freeze


class Echo(AsyncCacheJob[str]):
    ttl = 1

    def fetch(self, text: str) -> str:
        return text


def test_p2_a_stale_aget_with_an_unusable_dispatcher_raises_nothing(settings: Any) -> None:
    settings.ASYNC_CACHE = {"DISPATCHER": "no.such.Dispatcher"}
    with freeze() as clock:
        Echo().get("a")
        clock.advance(5)
        assert asyncio.run(Echo().aget("a")) == "a"


class Slow(AsyncCacheJob[str]):
    ttl = 60
    wait = 5

    def fetch(self, text: str) -> str:
        time.sleep(0.1)
        return text


@pytest.mark.parametrize("round_", range(3))
def test_p3_aget_many_leaves_the_thread_to_the_fetch_it_waits_for(
    settings: Any, redis_caches: str, round_: int
) -> None:
    settings.ASYNC_CACHE = {"CACHE": "redis", "DISPATCHER": "immediate"}

    async def work() -> Any:
        one = asyncio.ensure_future(Slow().aget("a"))
        for _ in range(round_):
            await asyncio.sleep(0.002)
        many = asyncio.ensure_future(Slow().aget_many([("a",), ("b",)]))
        return await asyncio.gather(one, many)

    begun = time.monotonic()
    assert asyncio.run(work()) == ["a", ["a", "b"]]
    assert time.monotonic() - begun < Slow.wait


class Conditional(AsyncCacheJob[str]):
    ttl = 1
    changed = True

    def fetch(self, text: str, *, ctx: Any) -> Any:
        if not self.changed and ctx.stale is not MISSING:
            return NOT_MODIFIED
        ctx.add_tags(f"of {text}")
        return text


def test_p4_a_value_that_was_not_modified_keeps_the_tags_its_fetch_decided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with freeze() as clock:
        Conditional().get("a")
        clock.advance(5)
        monkeypatch.setattr(Conditional, "changed", False)
        assert Conditional().refresh("a") == "a"
        assert Conditional().explain("a").status is Status.FRESH
        invalidate_tags("of a")
        assert Conditional().explain("a").status is Status.STALE


class InTheBackground(AsyncCacheJob[str]):
    ttl = 60
    fetch_on_miss = False

    def fetch(self, text: str) -> str:
        return text


@pytest.mark.parametrize("how", ["get", "get_many", "aget"])
def test_p5_a_miss_after_a_delete_asks_again_at_once(settings: Any, how: str) -> None:
    settings.ASYNC_CACHE = {"DISPATCHER": "immediate"}

    def read() -> Any:
        if how == "get_many":
            return InTheBackground().get_many([("a",)])[0]
        if how == "aget":
            return asyncio.run(InTheBackground().aget("a"))
        return InTheBackground().get("a")

    assert read() is None
    assert read() == "a"
    InTheBackground().delete("a")
    assert read() is None
    assert read() == "a"


class Awaited(AsyncCacheJob[str]):
    ttl = 60

    async def fetch(self, text: str, *, ctx: Any) -> str:
        ctx.add_tags("of a")
        return text


@pytest.mark.django_db(transaction=True)
def test_aget_many_learns_tags_without_blocking_the_loop(
    settings: Any, database_cache: Any
) -> None:
    settings.ASYNC_CACHE = {"CACHE": "database", "DISPATCHER": "immediate"}
    asyncio.run(Awaited().aget("a"))
    conf.reset()  # as in another process, which has not met the entry
    seen: list[str] = []

    def note(sender: object, signal: Any, **_: object) -> None:
        seen.append("failed" if signal is signals.store_failed else "fetched")

    for signal in (signals.store_failed, signals.refresh_started):
        signal.connect(note)
    try:
        assert asyncio.run(Awaited().aget_many([("a",)])) == ["a"]
    finally:
        for signal in (signals.store_failed, signals.refresh_started):
            signal.disconnect(note)
    assert seen == []
