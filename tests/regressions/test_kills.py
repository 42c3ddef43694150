"""Workers that are killed."""

from __future__ import annotations

import time
from typing import Any

import pytest

from async_cache import AsyncCacheJob
from async_cache.attempts import new_token
from async_cache.dispatchers import get_dispatcher
from async_cache.stores.base import Phase
from tests.dispatchers.support import eventually


class Brief(AsyncCacheJob[str]):
    ttl = 0
    lease = 0.3

    def fetch(self, key: str) -> str:
        raise AssertionError("no worker runs")


@pytest.mark.parametrize("alias", ["default", "redis"])
def test_p5_the_only_reader_asks_again_soon_after_the_lease_of_a_killed_worker(
    settings: Any, redis_caches: str, alias: str
) -> None:
    """Its guard lasted for the grace of the message, 10 s, however short the lease was."""
    settings.ASYNC_CACHE = {"CACHE": alias, "DISPATCHER": "tests.jobs.support.Shelf"}
    shelf: Any = get_dispatcher("tests.jobs.support.Shelf")
    shelf.messages.clear()
    job = Brief()
    job.set("kept", "key")
    assert job.get("key") == "kept"
    runtime = job._runtime
    claim = runtime.claim(runtime.address(("key",), {}), new_token(), Phase.FETCHING)
    assert runtime.store.claim([claim])[0].won
    begun = time.monotonic()
    eventually(lambda: job.get("key") and len(shelf.messages) > 1, 5)
    assert time.monotonic() - begun < 3
