"""Event loops that end with readers on their way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from async_cache import AsyncCacheJob
from async_cache.stores.aredis import AsyncRedisStore
from async_cache.stores.base import Claim
from async_cache.stores.registry import get_store


class Slow(AsyncCacheJob[str]):
    ttl = 60
    lease = 600
    fetch_timeout = 600

    async def fetch(self, key: str) -> str:
        return key


def test_a_loop_that_ends_while_it_claims_keeps_no_lease(
    redis_caches: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease stayed with nobody until its end, and readers of the key waited."""
    settings.ASYNC_CACHE = {"CACHE": "redis"}
    claim = AsyncRedisStore.claim

    async def story() -> asyncio.Future[str]:
        claimed = asyncio.Event()

        async def unanswered(store: AsyncRedisStore, claims: Sequence[Claim]) -> None:
            await claim(store, claims)
            claimed.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(AsyncRedisStore, "claim", unanswered)
        reader = asyncio.ensure_future(Slow().aget("key"))
        await claimed.wait()
        return reader

    asyncio.run(story())
    lease = Slow()._runtime.address(("key",), {}).lease
    assert get_store("redis").holders([lease]) == [None]
