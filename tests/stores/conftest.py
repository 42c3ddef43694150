"""Every store under one fixture, the asynchronous ones behind an event loop of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import redis
from django.core.cache import caches
from django.core.management import call_command

from async_cache.stores.base import AsyncStore, Level, Store
from async_cache.stores.django import make_django_store
from async_cache.stores.registry import get_async_store, get_store, reset_stores

LIFE = 30 * 86_400.0
on_postgres = pytest.mark.django_db(databases=["default", "postgres"], transaction=True)


class CacheRouter:
    """Sends the table of DatabaseCache to PostgreSQL."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        return "postgres" if model._meta.app_label == "django_cache" else None

    db_for_write = db_for_read


class Blocking(Store):
    """An asynchronous store as a synchronous one, so that one suite serves both."""

    def __init__(self, inner: AsyncStore, run: Callable[[Any], Any]) -> None:
        self.inner = inner
        self.run = run
        self.alias, self.level = inner.alias, inner.level  # type: ignore[misc]
        self.shares, self.elects = inner.shares, inner.elects

    def prepare(self, names: Sequence[str]) -> Any:
        return self.inner.prepare(names)

    def read(self, handle: Any) -> list[bytes | None]:
        return self.run(self.inner.read(handle))  # type: ignore[no-any-return]

    def read_many(self, handles: Sequence[Any]) -> Any:
        return self.run(self.inner.read_many(handles))

    def claim(self, claims: Any) -> Any:
        return self.run(self.inner.claim(claims))

    def commit(self, commits: Any) -> Any:
        return self.run(self.inner.commit(commits))

    def renew(self, leases: Any) -> Any:
        return self.run(self.inner.renew(leases))

    def release(self, leases: Any) -> None:
        self.run(self.inner.release(leases))

    def holders(self, leases: Any) -> Any:
        return self.run(self.inner.holders(leases))

    def put(self, items: Any) -> None:
        self.run(self.inner.put(items))

    def remove(self, names: Any) -> None:
        self.run(self.inner.remove(names))

    def close(self) -> None:
        self.inner.close()


@pytest.fixture(autouse=True)
def _fresh_stores() -> Iterator[None]:
    reset_stores()
    yield
    reset_stores()


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


STORES = [
    "locmem",
    "file",
    pytest.param("database", marks=pytest.mark.django_db(transaction=True)),
    pytest.param("postgres", marks=on_postgres),
    "memcached",
    "redis-validated",
    "redis",
    "redis-builtin",
    "locmem-async",
    "redis-async",
]


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Store:
    """Return an empty store of each kind in turn."""
    return build(request.param, request)


def redis_emptied(use: Callable[[str], Any]) -> None:
    """Have the Redis aliases, with nothing in them."""
    use("redis_caches")
    caches["redis"].clear()


def build(kind: str, request: pytest.FixtureRequest) -> Store:
    """Return an empty store of a kind."""
    use = request.getfixturevalue
    if kind.endswith("-async"):
        runner: asyncio.Runner = use("runner")
        if kind.startswith("redis"):
            redis_emptied(use)
        alias = "redis" if kind.startswith("redis") else "default"
        return Blocking(get_async_store(alias), runner.run)
    if kind == "postgres":
        settings = use("settings")
        settings.DATABASE_ROUTERS = ["tests.stores.conftest.CacheRouter"]
        call_command("createcachetable", database="postgres")
        caches["database"].clear()
        return get_store("database")
    if kind == "database":
        use("database_cache")
        return get_store("database")
    if kind == "memcached":
        use("memcached_cache").clear()
        return get_store("memcached")
    if kind == "file":
        use("file_cache")
        return get_store("file")
    if kind == "locmem":
        return get_store("default")
    redis_emptied(use)
    if kind == "redis-validated":
        return make_django_store("redis", LIFE)
    return get_store("redis" if kind == "redis" else "django_redis_builtin")


@pytest.fixture
def expire(request: pytest.FixtureRequest, store: Store) -> Callable[[str], None]:
    """Return a function that lets a lease end now, as when its time is over."""

    def end(lease: str) -> None:
        if store.level is Level.VALIDATED:
            store.remove([lease, lease + ".q"])
            return
        with redis.Redis.from_url(request.getfixturevalue("redis_url")) as client:
            key = str(caches[store.alias].make_key(lease))
            record = client.get(key)
            assert isinstance(record, bytes)
            phase, attempts, _, token = record.split(b":", 3)
            client.set(key, b":".join([phase, attempts, b"1", token]), keepttl=True)

    return end
