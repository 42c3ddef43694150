"""Refreshes of the core leave records."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from async_cache import AsyncCacheJob
from async_cache.results import fetch
from async_cache.results.layers import get_cache_layer
from async_cache.results.records import NO_RECORD


class Squares(AsyncCacheJob[int]):
    ttl = 60

    def fetch(self, n: int) -> int:
        if n < 0:
            raise ValueError("a secret")
        return n * n


@pytest.fixture(autouse=True)
def _settings(settings: Any) -> None:
    settings.ASYNC_CACHE = {
        "CACHE": "default", "DISPATCHER": "immediate", "RESULTS": {"REFRESHES": 3}
    }  # fmt: skip


def test_a_refresh_leaves_a_record_without_its_value() -> None:
    Squares().get(7)
    name = f"{__name__}.Squares"
    found = fetch(name, cached=True)
    assert found is not None
    assert (found.success, found.result) == (True, None)
    assert "size" in str(found.meta)
    with pytest.raises(ValueError, match="a secret"):
        Squares().get(-1)
    found = fetch(name, cached=True)
    assert found is not None
    assert isinstance(found.result, ValueError)
    assert "secret" not in repr(found.as_dict())


class Halves(AsyncCacheJob[float]):
    ttl = 60

    async def fetch(self, n: int) -> float:
        return n / 2


def test_a_refresh_in_an_event_loop_leaves_its_record_from_a_thread(
    settings: Any, database_cache: Any
) -> None:
    # DatabaseCache refuses to be used in the loop's own thread.
    settings.ASYNC_CACHE = {"CACHE": "database", "DISPATCHER": "immediate"}

    async def read() -> float:
        value = await Halves().aget(7)
        # What was handed to the loop's threads ends before the loop does.
        await asyncio.get_running_loop().shutdown_default_executor()
        return value

    assert asyncio.run(read()) == 3.5
    found = fetch(f"{__name__}.Halves", cached=True)
    assert found is not None
    assert found.success is True


def test_their_number_is_bounded(settings: Any) -> None:
    for n in range(8):
        Squares().get(n)
    ids = [f"async_cache.refreshes.{n}" for n in range(10)]
    kept = [r for r in get_cache_layer().get_many(ids) if r is not NO_RECORD]
    assert len(kept) == 3
