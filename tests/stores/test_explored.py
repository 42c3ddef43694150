"""The explorer's own stores keep the contract too, or what it finds would say nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from async_cache.stores.base import Level
from tests.explorer.stores import AtomicStore, SwitchingStore, make_store
from tests.explorer.world import World
from tests.stores import test_contract as contract


class RealTime(World):
    """A world in which time passes by itself."""

    @property
    def now(self) -> float:
        return time.monotonic()

    @now.setter
    def now(self, value: float) -> None:
        """Time goes on."""


@pytest.fixture(params=Level)
def store(request: pytest.FixtureRequest) -> SwitchingStore | AtomicStore:
    return make_store(request.param, RealTime())


@pytest.fixture
def expire(store: SwitchingStore | AtomicStore) -> Callable[[str], None]:
    return store.expire


def _borrowed() -> dict[str, Any]:
    # Not those with threads: these stores belong to one, and actors race in it.
    tests = {name: test for name, test in vars(contract).items() if name.startswith("test_")}
    return {name: test for name, test in tests.items() if "threading" not in test.__code__.co_names}


globals().update(_borrowed())
