"""Coroutines that are cancelled on the way, and what a server says of its connections."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import redis
from django.core.cache import caches

from async_cache import AsyncCacheJob
from async_cache.stores.registry import get_async_store, get_store, reset_stores
from async_cache.vary import Vary
from tests.dispatchers.support import eventually

__all__ = ["TENANT", "Cut", "Named", "Plain", "Stale", "check_connections", "use_tenant"]

_tenant: contextvars.ContextVar[str] = contextvars.ContextVar("faults_tenant", default="nobody")


@contextmanager
def use_tenant(name: str) -> Iterator[None]:
    """Read and fetch as a tenant."""
    token = _tenant.set(name)
    try:
        yield
    finally:
        _tenant.reset(token)


TENANT = Vary(_tenant.get, use_tenant)


class Plain(AsyncCacheJob[str]):
    """A value that names whose it is; counts its fetches."""

    ttl = 3600
    wait = 120
    vary = (f"{__name__}.TENANT",)
    fetched: ClassVar[Counter[str]] = Counter()
    _lock: ClassVar[Any] = threading.Lock()

    @staticmethod
    def value(key: str) -> str:
        """Return what the tenant in force is to get."""
        return f"{_tenant.get()}'s {key}"

    def count(self, key: str) -> str:
        """Note a fetch and return its value."""
        value = self.value(key)
        with self._lock:
            self.fetched[value] += 1
        return value

    def fetch(self, key: str) -> str:
        return self.count(key)


class Named(Plain):
    """The same, fetched in the event loop."""

    async def fetch(self, key: str) -> str:  # type: ignore[override]
        await asyncio.sleep(0.001)
        return self.count(key)


class Stale(Plain):
    """Stale at once: each read asks for a refresh."""

    ttl = 0
    grace = 3600


class Cut:
    """A coroutine that is cancelled where it waits for the time numbered ``at``; 0 for never.

    Attributes:
        waits: How often it has waited.
    """

    def __init__(self, work: Coroutine[Any, Any, Any], at: int = 0) -> None:
        self.work = work
        self.at = at
        self.waits = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self.work.__await__()
        go_on: Callable[[], Any] = partial(next, steps)
        while True:
            try:
                waits_for = go_on()
            except StopIteration as end:
                return end.value
            self.waits += 1
            if self.waits == self.at:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                go_on = partial(steps.send, (yield waits_for))
            except BaseException as error:  # noqa: BLE001 - handed in
                go_on = partial(steps.throw, error)

    async def run(self) -> Any:
        """Await it as a task does."""
        return await self


def clients(url: str) -> int:
    """Return how many connections a server has, but for the one that asks."""
    with redis.Redis.from_url(url, max_connections=1) as client:
        return len(client.client_list()) - 1


def idle(alias: str) -> int:
    """Return how many connections the stores of an alias keep for later."""
    stores: list[Any] = [get_store(alias), get_async_store(alias)]
    return sum(len(store._pool.idle) for store in stores)


def check_connections(alias: str, url: str) -> int:
    """Check that the server has the connections that are kept, and then none; return how many."""
    kept = idle(alias)
    eventually(lambda: clients(url) <= idle(alias), 10)
    reset_stores()
    caches.close_all()
    eventually(lambda: clients(url) == 0, 10)
    return kept
