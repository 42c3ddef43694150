"""Every kind of store under one fixture, and a clean process for each test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.cache import caches

from async_cache import guards, invalidation, publisher
from async_cache.dispatchers import get_dispatcher
from async_cache.stores.registry import reset_stores
from tests.jobs.support import Shelf


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    guards.forget()
    invalidation.reset()
    yield
    publisher.drain(1.0)
    publisher._reset()
    guards.forget()
    invalidation.reset()
    reset_stores()


def use(kind: str, request: pytest.FixtureRequest) -> str:
    """Make ready a store of a kind and return its alias."""
    if kind == "redis":
        request.getfixturevalue("redis_caches")
        return "redis"
    if kind == "memcached":
        request.getfixturevalue("memcached_cache")
        return "memcached"
    if kind == "database":
        request.getfixturevalue("database_cache")
        return "database"
    return "default"


KINDS = [
    "locmem",
    "redis",
    "memcached",
    pytest.param("database", marks=pytest.mark.django_db(transaction=True)),
]


def chosen(alias: str, settings: Any) -> str:
    caches[alias].clear()
    settings.ASYNC_CACHE = {"CACHE": alias, "DISPATCHER": "immediate"}
    return alias


@pytest.fixture(params=["locmem", "redis"])
def alias(request: pytest.FixtureRequest, settings: Any) -> str:
    """Make a validated store and the fenced one, in turn, the project's cache."""
    return chosen(use(request.param, request), settings)


@pytest.fixture(params=KINDS)
def each_alias(request: pytest.FixtureRequest, settings: Any) -> str:
    """Make each kind of store, in turn, the project's cache."""
    return chosen(use(request.param, request), settings)


@pytest.fixture
def local(settings: Any) -> str:
    """Make the cache in this process the project's, with refreshes in the reader's thread."""
    return chosen("default", settings)


@pytest.fixture
def shelf(settings: Any) -> Shelf:
    """Keep refreshes until the test runs them. Ask for it after the store."""
    path = "tests.jobs.support.Shelf"
    settings.ASYNC_CACHE = {**settings.ASYNC_CACHE, "DISPATCHER": path}
    found = get_dispatcher(path)
    assert isinstance(found, Shelf)
    return found
