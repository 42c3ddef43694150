"""A clean process for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from async_cache import guards, invalidation, publisher
from async_cache.stores.registry import reset_stores


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    guards.forget()
    invalidation.reset()
    yield
    publisher.drain(1.0)
    publisher._reset()
    guards.forget()
    retrying = invalidation._thread
    invalidation.reset()
    if retrying is not None:
        retrying.join(3.0)
    reset_stores()
