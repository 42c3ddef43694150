"""The heartbeat keeps a slow fetch's lease, gives up a hung one, and tells what it has lost."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence

import pytest

from async_cache import heartbeat, threads
from async_cache.exceptions import StoreUnavailable
from async_cache.heartbeat import holding
from async_cache.leases import Phase
from async_cache.stores.base import Claim
from async_cache.stores.django import DjangoStore
from tests.dispatchers.support import SECONDS, eventually
from tests.lateness import Lateness

MINE, OTHER = b"m" * 16, b"o" * 16
LENGTH = 0.9
"""Long enough that a busy machine renews in time."""


class Watched(DjangoStore):
    """A real store that counts renewals, and can be switched off."""

    def __init__(self) -> None:
        super().__init__("default", 1000.0)
        self.renewals: list[list[str]] = []
        self.times: list[float] = []
        self.fails: Exception | None = None
        self.changed = threading.Condition()

    def renew(self, leases: Sequence[tuple[str, bytes, float]]) -> list[bool]:
        fails = self.fails
        with self.changed:
            self.renewals.append([name for name, _, _ in leases])
            self.times.append(time.monotonic())
            self.changed.notify_all()
        if fails is not None:
            raise fails
        return super().renew(leases)

    def wait_for(self, condition: Callable[[], object]) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: bool(condition()), SECONDS)

    def take(self, *names: str, token: bytes = MINE, seconds: float = LENGTH) -> None:
        claims = [
            Claim(name, token, Phase.FETCHING, seconds, f"{name}.trace", 100) for name in names
        ]
        assert all(claimed.won for claimed in self.claim(claims))

    def is_mine(self, name: str) -> bool:
        (holder,) = self.holders([name])
        return holder is not None and holder.token == MINE


@pytest.fixture
def store() -> Watched:
    return Watched()


def test_a_lease_outlives_its_length_while_held(store: Watched) -> None:
    store.take("lease")
    with holding(store, [("lease", MINE)], LENGTH, 60) as held:
        begin = time.monotonic()
        store.wait_for(lambda: len(store.renewals) >= 5)
        assert time.monotonic() - begin > LENGTH
        assert store.is_mine("lease")
        assert held.renewing
        assert not held.lost
    eventually(lambda: not store.is_mine("lease"))


def test_renewals_come_at_a_third_of_the_length(store: Watched) -> None:
    store.take("lease")
    begin = time.monotonic()
    with Lateness() as late, holding(store, [("lease", MINE)], LENGTH, 60):
        store.wait_for(lambda: len(store.renewals) >= 3)
    took = time.monotonic() - begin
    assert 3 * LENGTH / 3 * 0.85 < took < 3 * LENGTH / 3 + 0.5 + late.seconds


def test_a_hung_fetch_is_abandoned_after_its_limit(store: Watched) -> None:
    store.take("lease")
    with holding(store, [("lease", MINE)], LENGTH, LENGTH):
        # The block has not ended, and the lease is free all the same.
        eventually(lambda: not store.is_mine("lease"))
        done = len(store.renewals)
        store.take("lease", token=OTHER)
        assert done <= 3


def test_what_another_has_taken_is_told_and_renewed_no_more(store: Watched) -> None:
    store.take("one", "two")
    with holding(store, [("one", MINE), ("two", MINE)], LENGTH, 60) as held:
        store.release([("two", MINE, "two.trace")])
        store.take("two", token=OTHER)
        eventually(lambda: held.lost)
        assert held.lost == {"two"}
        store.wait_for(lambda: store.renewals[-1] == ["one"])
        assert store.is_mine("one")


def test_the_leases_of_many_fetches_are_renewed_in_one_round_trip(store: Watched) -> None:
    names = [f"lease{number}" for number in range(20)]
    store.take(*names, seconds=3)
    blocks = [holding(store, [(name, MINE)], 3, 60) for name in names]
    for number, block in enumerate(blocks):
        held = block.__enter__()
        held.due += number * 0.0004  # as if they had begun one after another
    store.wait_for(lambda: len(store.renewals) >= 2)
    for block in blocks:
        block.__exit__(None, None, None)
    assert len(store.renewals) <= 4
    assert sorted(store.renewals[0]) == sorted(names)


@pytest.mark.parametrize("error", [StoreUnavailable("down"), ZeroDivisionError("secret")])
def test_a_store_that_fails_is_asked_again(
    store: Watched, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    store.take("lease", seconds=2.0)
    store.fails = error
    with holding(store, [("lease", MINE)], 2.0, 60) as held:
        store.wait_for(lambda: store.renewals)
        store.fails = None
        store.wait_for(lambda: len(store.renewals) >= 2)
        first, second, *_ = store.times
        assert second - first > 0.2, "not at once, nor all the time"
        assert not held.lost
    assert "secret" not in caplog.text
    assert ("ZeroDivisionError" in caplog.text) is isinstance(error, ZeroDivisionError)


def test_the_thread_sleeps_when_nothing_is_held(store: Watched) -> None:
    store.take("lease")
    with holding(store, [("lease", MINE)], LENGTH, 60):
        store.wait_for(lambda: store.renewals)
    done = len(store.renewals)
    thread = heartbeat._heart._thread
    assert thread is not None
    assert thread.ident is not None
    its_clock = time.pthread_getcpuclockid(thread.ident)
    before = time.clock_gettime(its_clock)
    deadline = threading.Event()
    deadline.wait(LENGTH)  # nothing may happen: there is no event to wait for
    assert time.clock_gettime(its_clock) - before < LENGTH / 5
    assert len(store.renewals) <= done + 1


def test_a_forked_child_renews_its_own_leases_only(store: Watched) -> None:
    store.take("parents")
    with holding(store, [("parents", MINE)], LENGTH, 60), heartbeat._heart._changed:
        pid = os.fork()
        if pid == 0:
            try:
                child = Watched()
                child.take("childs")
                with holding(child, [("childs", MINE)], LENGTH, 60):
                    child.wait_for(lambda: len(child.renewals) >= 2)
                mine = all(names == ["childs"] for names in child.renewals)
                os._exit(0 if mine and not store.renewals else 1)
            finally:
                os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_without_threads_nothing_is_renewed(
    store: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    heartbeat._heart.reset()
    monkeypatch.setattr(threads, "supported", lambda: False)
    with holding(store, [("lease", MINE)], LENGTH, 60) as held:
        assert not held.renewing


def test_holdings_are_capped(store: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "MAX_HOLDINGS", 1)
    with holding(store, [("one", MINE)], LENGTH, 60) as one:
        with holding(store, [("two", MINE)], LENGTH, 60) as two:
            assert one.renewing
            assert not two.renewing
        assert len(heartbeat._heart._holdings) == 1
    assert not heartbeat._heart._holdings
