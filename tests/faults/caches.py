"""Caches behind a proxy, what can go wrong with them, and what is to be seen of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import redis
from django.core.cache import caches

from async_cache.jobs.base import AsyncCacheJob
from async_cache.stores.base import Lease, Store
from async_cache.stores.registry import get_store, reset_stores
from tests.faults.proxy import Mode, Proxy, address_of, through
from tests.servers import MemcachedServer, RedisServer, Server

__all__ = ["ALIAS", "KINDS", "OUTAGES", "FaultyCache", "faulty_cache"]

ALIAS = "faulty"
ALWAYS = float("inf")
SECONDS = 0.25
"""What the backends that keep their own time wait for one answer; ours waits as long."""

KINDS: Final[Mapping[str, dict[str, Any]]] = MappingProxyType(
    {
        "django-redis": {"BACKEND": "django_redis.cache.RedisCache"},
        "RedisCache": {"BACKEND": "django.core.cache.backends.redis.RedisCache"},
        "Memcached": {
            "BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache",
            "OPTIONS": {
                # Its own memory of what failed, in which it says no to everything, adds to ours.
                "retry_attempts": 0,
                "retry_timeout": 0,
                "dead_timeout": 0,
            },
        },
    }
)


@dataclass
class FaultyCache:
    """A cache whose server this process reaches through a proxy.

    Attributes:
        kind: A key of `KINDS`.
        server: Its server, which may be stopped, killed and started.
        proxy: What stands between it and this process.
    """

    kind: str
    server: RedisServer | MemcachedServer
    proxy: Proxy

    @property
    def store(self) -> Store:
        """The store of the alias."""
        return get_store(ALIAS)

    def admin(self) -> redis.Redis:
        """Return a client that goes past the proxy; close it."""
        assert isinstance(self.server, RedisServer)
        return redis.Redis.from_url(self.server.url)

    def holders(self, job: AsyncCacheJob[Any], keys: Sequence[str]) -> list[Lease | None]:
        """Return who holds the leases of these keys."""
        names = [job._runtime.address((key,), {}).lease for key in keys]
        return self.store.holders(names)

    def forgive(self) -> None:
        """Let the store try again at once what it would leave alone for a second."""
        self.store._breaker.succeeded()  # type: ignore[attr-defined]


OUTAGES: Final[Mapping[str, Callable[[FaultyCache], None]]] = MappingProxyType(
    {
        "refused": lambda cache: cache.proxy.set(Mode.REFUSE),
        "reset": lambda cache: cache.proxy.set(Mode.RESET),
        "blackholed": lambda cache: cache.proxy.set(Mode.BLACKHOLE),
        "syn dropped": lambda cache: cache.proxy.set(Mode.SYN_DROP),
        "replies dropped": lambda cache: cache.proxy.drop_reply(b"", ALWAYS),
    }
)


@contextmanager
def faulty_cache(kind: str, settings: Any, seconds: float = SECONDS) -> Iterator[FaultyCache]:
    """Make a server and the alias `ALIAS`, with a proxy between them, the cache of all jobs.

    Args:
        kind: A key of `KINDS`.
        settings: Those of pytest-django.
        seconds: ``IO_TIMEOUT``, for checks in which the cache does answer.
    """
    server: Server = (MemcachedServer if kind == "Memcached" else RedisServer)()
    with server, Proxy(address_of(server.url)) as proxy:
        entry = {**KINDS[kind], "LOCATION": through(server.url, proxy)}
        if "OPTIONS" in entry:
            waits = {"connect_timeout": seconds, "timeout": seconds}
            entry["OPTIONS"] = {**entry["OPTIONS"], **waits}
        settings.CACHES = {**settings.CACHES, ALIAS: entry}
        settings.ASYNC_CACHE = {"CACHE": ALIAS, "DISPATCHER": "celery", "IO_TIMEOUT": seconds}
        assert isinstance(server, RedisServer | MemcachedServer)
        try:
            yield FaultyCache(kind, server, proxy)
        finally:
            caches.close_all()
            reset_stores()
