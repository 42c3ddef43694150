"""Caches that refuse or are away."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
import redis

from async_cache import AsyncCacheJob, StoreUnavailable, invalidation, signals
from tests.servers import RedisServer


class TooLarge(AsyncCacheJob[bytes]):
    """More than Memcached takes, less than MAX_VALUE_SIZE."""

    ttl = 60
    wait = 5

    def fetch(self, number: int) -> Any:
        return os.urandom(1_500_000)


def test_p8_a_value_that_the_cache_refuses_keeps_nobody_waiting(
    settings: Any, memcached_cache: Any
) -> None:
    settings.ASYNC_CACHE = {"CACHE": "memcached", "DISPATCHER": "immediate"}
    begun = time.monotonic()
    for _ in range(3):
        assert len(TooLarge().get(1)) == 1_500_000
    assert time.monotonic() - begun < TooLarge.wait


class Rate(AsyncCacheJob[int]):
    ttl = 60

    def fetch(self, number: int) -> int:
        return number


@pytest.fixture
def away(settings: Any, redis_server: RedisServer) -> RedisServer:
    settings.CACHES = {
        **settings.CACHES,
        "away": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": redis_server.url,
        },
    }
    settings.ASYNC_CACHE = {"CACHE": "away", "DISPATCHER": "immediate"}
    return redis_server


def test_p4_one_key_invalidated_again_and_again_pushes_out_no_other(away: RedisServer) -> None:
    Rate().get(1)
    away.stop()
    with pytest.raises(StoreUnavailable):
        Rate().delete(1)
    for _ in range(invalidation.MAX_UNCONFIRMED + 1):
        with pytest.raises(StoreUnavailable):
            Rate().invalidate(2)
    hard = Rate()._runtime.address((1,), {}).hard
    assert invalidation.unconfirmed[hard] is True


def test_p5_an_invalidation_is_tried_again_where_no_threads_can_be_had(
    away: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    Rate().get(1)
    monkeypatch.setattr("async_cache.threads.supported", lambda: False)
    away.stop()
    with pytest.raises(StoreUnavailable):
        Rate().delete(1)
    away.start()
    deadline = time.monotonic() + 30
    while invalidation.unconfirmed:
        assert time.monotonic() < deadline, "it is not tried again"
        assert Rate().get(1) == 1
        time.sleep(0.05)


@pytest.mark.parametrize("kind", ["redis", "memcached"])
def test_p8_a_refusal_is_announced(request: Any, settings: Any, kind: str) -> None:
    if kind == "redis":
        server = request.getfixturevalue("away")
        with redis.Redis.from_url(server.url) as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", 1)
    else:
        request.getfixturevalue("memcached_cache")
        settings.ASYNC_CACHE = {"CACHE": "memcached", "DISPATCHER": "immediate"}
    seen: list[str] = []

    def note(sender: object, operation: str, **_: object) -> None:
        seen.append(operation)

    signals.store_failed.connect(note)
    try:
        assert TooLarge().get(1)
    finally:
        signals.store_failed.disconnect(note)
    assert seen[0] == ("exchange, OOM" if kind == "redis" else "set_many, refused")
