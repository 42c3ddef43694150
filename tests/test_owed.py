"""Leases that are owed: given back once the cache answers, bounded, and never for ever."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import pytest

from async_cache import clock, flights, owed
from async_cache.exceptions import StoreUnavailable
from async_cache.leases import Phase
from async_cache.stores.base import Claim
from async_cache.stores.django import DjangoStore
from tests.dispatchers.support import eventually


class Deaf(DjangoStore):
    """A store whose cache takes claims and, until told otherwise, no releases."""

    def __init__(self) -> None:
        super().__init__("default", 1000.0)
        self.down = True
        self.asked = 0

    def release(self, leases: Sequence[tuple[str, bytes, str]]) -> None:
        self.asked += 1
        if self.down:
            raise StoreUnavailable("The test says so.")
        super().release(leases)


@pytest.fixture(autouse=True)
def _nothing_owed() -> Iterator[None]:
    owed.reset()
    yield
    owed.reset()


def test_a_lease_is_given_back_once_the_cache_answers() -> None:
    store = Deaf()
    assert store.claim([Claim("lease", b"t" * 16, Phase.FETCHING, 60, "trace", 100)])[0].won
    owed.owe(store, [("lease", b"t" * 16, "trace")], 60)
    eventually(lambda: store.asked >= 2)
    assert store.holders(["lease"])[0] is not None
    store.down = False
    eventually(lambda: store.holders(["lease"])[0] is None)
    eventually(owed.give_back)


def test_anothers_lease_is_left_alone() -> None:
    store = Deaf()
    store.down = False
    store.claim([Claim("lease", b"o" * 16, Phase.FETCHING, 60, "trace", 100)])
    owed.owe(store, [("lease", b"t" * 16, "trace")], 60)
    eventually(lambda: store.asked)
    eventually(owed.give_back)
    assert store.holders(["lease"])[0] is not None


def test_it_is_bounded_in_number_and_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Deaf()
    many = [(f"lease{n}", b"t" * 16, "trace") for n in range(owed.MAX_OWED + 10)]
    owed.owe(store, many, 60)
    assert len(owed._debts) == owed.MAX_OWED
    assert not owed.give_back()
    now = time.monotonic() + 61
    monkeypatch.setattr(clock, "monotonic", lambda: now)
    owed.give_back()
    assert owed._debts == []


def test_an_answer_lingers_for_those_alone_whose_read_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(clock, "monotonic", lambda: now)

    def land() -> flights.Flight:
        flight, leads = flights.join("key")
        assert leads
        flights.finish("key", flight, "answer", linger=True)
        return flight

    landed = land()
    assert flights.join("key", late=True) == (landed, False)
    other, leads = flights.join("key")
    assert leads, "a read that the cache answered knows better"
    flights.finish("key", other, None)
    flights.end_lingering()
    again, leads = flights.join("key", late=True)
    assert leads, "something was changed meanwhile"
    flights.finish("key", again, None)
    land()
    now += flights.LINGER_SECONDS
    late, leads = flights.join("key", late=True)
    assert leads
    flights.finish("key", late, None)
