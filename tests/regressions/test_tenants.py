"""A cache alias whose key function depends on a tenant."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from async_cache import AsyncCacheJob, StoreUnavailable, invalidation, signals
from async_cache.vary import Vary
from tests.servers import RedisServer

_tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


def tenant_key(key: str, prefix: str, version: int) -> str:
    """Put the tenant in force into every key."""
    return f"{_tenant.get()}:{prefix}:{version}:{key}"


@contextmanager
def use_tenant(name: str) -> Iterator[None]:
    token = _tenant.set(name)
    try:
        yield
    finally:
        _tenant.reset(token)


TENANT = Vary(_tenant.get, use_tenant)


class Report(AsyncCacheJob[str]):
    ttl = 600
    lease = 1
    vary = (f"{__name__}.TENANT",)

    def fetch(self, title: str, seconds: float = 0.0) -> str:
        time.sleep(seconds)
        return f"{_tenant.get()}'s {title}"


class Undeclared(AsyncCacheJob[str]):
    ttl = 600

    def fetch(self, title: str) -> str:
        time.sleep(0.2)
        return f"{_tenant.get()}'s {title}"


def use(settings: Any, url: str) -> None:
    settings.CACHES = {
        **settings.CACHES,
        "tenants": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": url,
            "KEY_FUNCTION": f"{__name__}.tenant_key",
        },
    }
    settings.ASYNC_CACHE = {"CACHE": "tenants", "DISPATCHER": "thread"}


def keys_of_nobody(url: str) -> list[bytes]:
    with redis.Redis.from_url(url) as client:
        keys: list[bytes] = client.keys("nobody:*")
        return keys


def test_a_refresh_is_leased_under_the_reader_s_keys(settings: Any, redis_url: str) -> None:
    use(settings, redis_url)
    committed = threading.Event()

    def note(sender: object, **_: object) -> None:
        committed.set()

    with use_tenant("Ada"):
        assert Report().get("sales") == "Ada's sales"
        Report().invalidate("sales")
        signals.refresh_committed.connect(note)
        try:
            assert Report().get("sales") == "Ada's sales"
            assert committed.wait(30)
        finally:
            signals.refresh_committed.disconnect(note)
        assert Report().explain("sales").refresh is None
    assert keys_of_nobody(redis_url) == []


def test_p3_the_lease_of_a_slow_fetch_is_renewed_under_its_own_keys(
    settings: Any, redis_url: str
) -> None:
    use(settings, redis_url)

    def read() -> None:
        with use_tenant("Ada"):
            Report().get("sales", 3)

    reader = threading.Thread(target=read)
    reader.start()
    time.sleep(2.2)
    with use_tenant("Ada"):
        assert Report().explain("sales", 3).refresh == "fetching"
    reader.join()


def test_two_tenants_never_share_a_fetch(settings: Any, redis_url: str) -> None:
    use(settings, redis_url)
    got: dict[str, str] = {}

    def read(name: str) -> None:
        with use_tenant(name):
            got[name] = Undeclared().get("sales")

    readers = [threading.Thread(target=read, args=(name,)) for name in ("Ada", "Eve")]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert got == {"Ada": "Ada's sales", "Eve": "Eve's sales"}


def wait_until_confirmed(read: Any) -> None:
    deadline = time.monotonic() + 30
    while invalidation.unconfirmed:
        assert time.monotonic() < deadline, "it is not tried again"
        read()
        time.sleep(0.05)


def test_p4_an_invalidation_is_tried_again_under_its_own_keys(
    settings: Any, redis_server: RedisServer
) -> None:
    use(settings, redis_server.url)
    redis_server.stop()
    with use_tenant("Ada"), pytest.raises(StoreUnavailable):
        Report().delete("sales")
    redis_server.start()
    wait_until_confirmed(lambda: None)
    with redis.Redis.from_url(redis_server.url) as client:
        assert [key for key in client.keys("*") if key.startswith(b"Ada:")]
        assert client.keys("nobody:*") == []
