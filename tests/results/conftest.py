"""Every layer under one fixture, on real servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.cache import caches
from django.core.management import call_command

from async_cache.results import waiting
from async_cache.results.layers import Layer, get_cache_layer
from async_cache.stores.registry import reset_stores

on_postgres = pytest.mark.django_db(databases=["default", "postgres"], transaction=True)

REDIS_LAYERS = ["redis", "redis-builtin"]
#: The cache of the layer over Django's own backends, and where it runs.
CACHE_LAYERS = [
    "locmem",
    "memcached",
    pytest.param("database", marks=pytest.mark.django_db(transaction=True)),
    pytest.param("postgres", marks=on_postgres),
]
LAYERS = [*REDIS_LAYERS, *CACHE_LAYERS]


@pytest.fixture(autouse=True)
def _fresh_stores() -> Iterator[None]:
    reset_stores()
    yield
    # Their connections must not outlive a test's database.
    waiting.stop()
    reset_stores()


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest) -> Layer:
    """Return an empty layer of each kind in turn."""
    return build(request.param, request.getfixturevalue)


@pytest.fixture
def redis_layer(request: pytest.FixtureRequest) -> Layer:
    """Return an empty layer over Redis."""
    return build("redis", request.getfixturevalue)


def build(kind: str, use: Callable[[str], Any]) -> Layer:
    """Return an empty layer of a kind."""
    if kind in REDIS_LAYERS:
        use("redis_caches")
        caches["redis"].clear()
        return get_cache_layer("redis" if kind == "redis" else "django_redis_builtin")
    if kind == "locmem":
        return get_cache_layer("default")
    if kind == "memcached":
        use("memcached_cache").clear()
        return get_cache_layer("memcached")
    settings = use("settings")
    entry = {**settings.CACHES["database"], "OPTIONS": {"MAX_ENTRIES": 1_000_000}}
    settings.CACHES = {**settings.CACHES, "database": entry}
    if kind == "postgres":
        settings.DATABASE_ROUTERS = ["tests.stores.conftest.CacheRouter"]
        call_command("createcachetable", database="postgres")
    caches["database"].clear()
    return get_cache_layer("database")
