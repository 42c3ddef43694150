"""What is measured: each scene is one run, in a process of its own.

Imported after Django is set up. A scene takes the number of rounds and returns a run and what to
read from it.
"""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import redis
import redis.asyncio
from cacheback.base import Job as CachebackJob
from django.core.cache import caches
from django.core.management import call_command

from async_cache import call, conf, guards
from async_cache.stores import registry
from async_cache.stores.django import make_django_store
from bench.figures import Figure
from bench.jobs import SMALL, VALUES, Expired, Many, Value
from bench.rounds import BASE, Run
from bench.settings import REDIS_URL
from bench.timing import Case, each, measure

__all__ = ["Answer", "backend", "coroutines", "hit", "many", "refreshes", "stale"]

Answer = tuple[Run, tuple[Figure, ...]]

LIMITS = {"100 B": 0.75, "2 KB of rows": 0.85}
CALLS = 100


class Peer(CachebackJob):  # type: ignore[misc]
    """A job of django-cacheback."""

    lifetime = 86_400

    def fetch(self, name: str) -> Any:
        """Return one of the values."""
        return VALUES[name]


def hit(rounds: int, size: str) -> Answer:
    """Compare a hit with redis-py's own GET and loads, and with peers."""
    value = VALUES[size]
    client = redis.Redis.from_url(REDIS_URL)
    client.set("plain", pickle.dumps(value, 5))
    ours, peer = Value(), Peer()
    for alias in ("django-redis", "Django"):
        caches[alias].set("value", value, 86_400)
    get, loads = client.get, pickle.loads
    operations: dict[str, Callable[[], object]] = {
        BASE: lambda: loads(get("plain")),  # type: ignore[arg-type]
        "async_cache": partial(ours.get, size),
        "django-redis": partial(caches["django-redis"].get, "value"),
        "Django": partial(caches["Django"].get, "value"),
        "cacheback": partial(peer.get, size),
    }
    _agree(operations, value)
    run = measure({name: each(one) for name, one in operations.items()}, rounds)
    plain = f"GET + loads, {size}"
    return run, (
        Figure(f"hit / {plain}", run.ratio("async_cache"), "x", LIMITS[size]),
        Figure(f"django-redis cache.get / {plain}", run.ratio("django-redis"), "x"),
        Figure(f"Django's RedisCache.get / {plain}", run.ratio("Django"), "x"),
        Figure(f"cacheback job.get (django-redis) / {plain}", run.ratio("cacheback"), "x"),
        Figure("hit", run.seconds("async_cache") * 1e6, "us"),
        Figure(plain, run.seconds(BASE) * 1e6, "us"),
    )


def backend(rounds: int, alias: str) -> Answer:
    """Compare a hit through a Django backend with that backend's own get_many."""
    if alias.startswith("DatabaseCache"):
        call_command("createcachetable", verbosity=0)
    option: dict[str, Any] = {"cache": alias}
    # As a validated store, Redis servers too.
    registry._stores[alias] = make_django_store(alias, conf.get_settings().max_lifetime)
    ours = Value(**option)
    value = ours.get("100 B")
    address = ours._runtime.address(("100 B",), {})
    names = [address.entry, *address.stamp_names(())]
    operations: dict[str, Callable[[], object]] = {
        BASE: lambda: caches[alias].get_many(names),
        "async_cache": partial(ours.get, "100 B"),
    }
    assert len(caches[alias].get_many(names)) == len(names), "not stored"
    _agree({"async_cache": operations["async_cache"]}, value)
    run = measure({name: each(one) for name, one in operations.items()}, rounds)
    return run, (
        Figure(f"hit - get_many, {alias}", run.difference("async_cache") * 1e6, "us", 8.0),
        Figure(f"hit, {alias}", run.seconds("async_cache") * 1e6, "us"),
        Figure(f"get_many of {len(names)}, {alias}", run.seconds(BASE) * 1e6, "us"),
    )


def stale(rounds: int) -> Answer:
    """Compare a stale read with a hit: no worker ever answers."""
    size = "100 B"
    fresh, expired = Value(), Expired()
    entry = expired._runtime.address((size,), {}).entry

    def unguarded() -> object:
        guards.forget(entry)
        return expired.get(size)

    operations: dict[str, Callable[[], object]] = {
        BASE: partial(fresh.get, size),
        "guarded": partial(expired.get, size),
        "unguarded": unguarded,
    }
    _agree(operations, VALUES[size])
    run = measure({name: each(one) for name, one in operations.items()}, rounds)
    return run, (
        Figure("stale read / hit", run.ratio("guarded"), "x", 1.1),
        Figure("stale read that asks for a refresh each time / hit", run.ratio("unguarded"), "x"),
        Figure(
            "stale read that asks for a refresh each time", run.seconds("unguarded") * 1e6, "us"
        ),
    )


def coroutines(rounds: int) -> Answer:
    """Compare aget with redis.asyncio's own GET and loads."""
    size = "100 B"
    ours, loads = Value(), pickle.loads
    client = redis.asyncio.Redis.from_url(REDIS_URL)
    sync = redis.Redis.from_url(REDIS_URL)
    sync.set("plain", pickle.dumps(VALUES[size], 5))
    with asyncio.Runner() as runner:

        async def plain() -> object:
            return loads(await client.get("plain"))  # type: ignore[arg-type]

        def case(operation: Callable[[], Awaitable[object]]) -> Case:
            async def loop(loops: int) -> float:
                started = time.perf_counter()
                for _ in range(loops):
                    await operation()
                return time.perf_counter() - started

            return lambda loops: runner.run(loop(loops))

        cases = {BASE: case(plain), "async_cache": case(partial(ours.aget, size))}
        run = measure(cases, rounds)
        runner.run(client.aclose())
    return run, (
        Figure(f"aget / redis.asyncio GET + loads, {size}", run.ratio("async_cache"), "x"),
        Figure("aget", run.seconds("async_cache") * 1e6, "us"),
        Figure("redis.asyncio GET + loads", run.seconds(BASE) * 1e6, "us"),
    )


def many(rounds: int) -> Answer:
    """Compare a get_many with an MGET of as many values, each loaded."""
    client = redis.Redis.from_url(REDIS_URL)
    names = [f"plain:{number}" for number in range(CALLS)]
    client.mset(dict.fromkeys(names, pickle.dumps(SMALL, 5)))
    ours, mget, loads = Many(), client.mget, pickle.loads
    calls = [call(number) for number in range(CALLS)]
    operations: dict[str, Callable[[], object]] = {
        BASE: lambda: [loads(one) for one in mget(names)],  # type: ignore[arg-type]
        "async_cache": lambda: ours.get_many(calls),
    }
    _agree(operations, [SMALL] * CALLS)
    run = measure({name: each(one) for name, one in operations.items()}, rounds)
    return run, (
        Figure(f"get_many of {CALLS} / MGET of {CALLS} + loads", run.ratio("async_cache"), "x"),
        Figure(f"get_many of {CALLS}", run.seconds("async_cache") * 1e6, "us"),
    )


def refreshes(rounds: int) -> Answer:
    """Say how many refreshes with an instant fetch one process does a second."""
    client = redis.Redis.from_url(REDIS_URL)
    data = pickle.dumps(SMALL, 5)
    ours = Value()
    operations: dict[str, Callable[[], object]] = {
        BASE: lambda: client.set("plain", data, ex=60),
        "async_cache": partial(ours.refresh, "100 B"),
    }
    run = measure({name: each(one) for name, one in operations.items()}, rounds)
    return run, (
        Figure("refresh with an instant fetch / SET", run.ratio("async_cache"), "x"),
        Figure("refreshes in one process", 1 / run.seconds("async_cache"), "/s"),
    )


def _agree(operations: Mapping[str, Callable[[], object]], value: object) -> None:
    for name, operation in operations.items():
        for _ in range(2):
            found = operation()
            if found != value:
                raise AssertionError(f"{name} returned {found!r:.100}")
