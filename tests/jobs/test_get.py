"""What `get` answers: P1 bounded staleness, P2 the caller does not wait, P11 type for type."""

from __future__ import annotations

import datetime as dt
import decimal
import sys
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.core.cache import caches

from async_cache import MISSING, AsyncCacheJob, Call, Status, StoreUnavailable, UnkeyableArgument
from async_cache.dispatchers import get_dispatcher
from async_cache.signals import dispatch_failed, entry_rejected
from async_cache.stores.registry import get_store
from async_cache.testing import capture_refreshes, freeze
from tests.jobs.support import Gate, Shelf, heard


class Point:
    """A class that a deploy takes away."""


class Counter(AsyncCacheJob[int]):
    ttl = 60
    grace = 600
    jitter = 0.0
    calls = 0

    def fetch(self, name: str = "bob", *, scale: int = 1) -> int:
        type(self).calls += 1
        return type(self).calls


@pytest.fixture(autouse=True)
def _reset() -> None:
    Counter.calls = 0


def test_p1_a_value_is_fresh_then_stale_then_gone(alias: str, shelf: Shelf) -> None:
    job = Counter()
    with freeze() as clock:
        assert job.get("bob") == 1
        clock.advance(59.9)
        assert job.get("bob") == 1
        assert not shelf.messages, "a fresh value needs no refresh"
        clock.advance(0.2)
        assert job.get("bob") == 1
        assert len(shelf.messages) == 1
        clock.advance(599)
        assert job.get("bob") == 1, "within the grace it is served"
        clock.advance(1)
        assert job.get("bob") == 2, "older than ttl + grace it is not"


def test_p1_nothing_from_before_a_delete_a_clear_or_another_version(alias: str) -> None:
    job = Counter()
    assert job.get("bob") == 1
    job.delete("bob")
    assert job.get("bob") == 2
    job.clear()
    assert job.get("bob") == 3
    assert Counter(version=2).get("bob") == 4
    assert Counter(version=1).get("bob") == 3


def test_p1_a_deleted_value_does_not_come_back_when_its_bytes_do(alias: str) -> None:
    """The stamps say that it is gone, not the missing key."""
    job = Counter()
    job.get("bob")
    key = job.explain("bob").key
    cache = caches[alias]
    store = get_store(alias)
    (raw,) = store.read(store.prepare([key]))
    assert raw is not None
    verbs: list[Callable[[], None]] = [
        lambda: job.delete("bob"),
        job.clear,
        lambda: job.set(10, "bob"),
    ]
    for verb in verbs:
        verb()
        store.put([(key, raw, 600.0)])
        assert job.peek("bob") is MISSING
        cache.delete(key)


def test_p1_an_entry_from_the_future_is_stale_and_its_age_is_clamped(
    alias: str, shelf: Shelf
) -> None:
    job = Counter()
    with freeze() as clock:
        start = clock.now()
        clock.move_to(start + 3600)
        job.get("bob")
        clock.move_to(start)
        assert job.explain("bob").age == 0
        assert job.explain("bob").status is Status.STALE
        assert job.get("bob") == 1
        shelf.run_all()
        assert job.get("bob") == 2
        assert job.explain("bob").status is Status.FRESH


def test_p1_jitter_only_shortens(alias: str) -> None:
    job = Counter(jitter=0.5)
    with freeze():
        left = []
        for number in range(40):
            job.get(f"name{number}")
            one = job.explain(f"name{number}")
            assert one.fresh_for is not None
            left.append(one.fresh_for)
            assert one.servable_for == pytest.approx(660)
    assert max(left) <= 60
    assert min(left) >= 30
    assert max(left) - min(left) > 5, "spread, so that they do not expire together"


def test_p1_ttl_none_never_turns_stale_and_zero_always_is(alias: str, shelf: Shelf) -> None:
    with freeze() as clock:
        forever, never = Counter(ttl=None), Counter(ttl=0)
        assert forever.get("a") == 1
        clock.advance(days=20)
        assert forever.get("a") == 1
        assert not shelf.messages
        assert never.get("b") == 2
        assert never.get("b") == 2
        assert len(shelf.messages) == 1


def test_p1_the_store_itself_drops_what_is_too_old(alias: str) -> None:
    """The hard bound does not depend on the reader's clock."""
    job = Counter(ttl=0.2, grace=0.1)
    job.get("bob")
    store = get_store(alias)
    handle = store.prepare([job.explain("bob").key])
    deadline = time.monotonic() + 30
    while store.read(handle)[0] is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert store.read(handle)[0] is None


def test_p2_a_stale_read_is_one_read_of_the_store(
    alias: str, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Counter(ttl=0)
    job.get("bob")
    job.get("bob")
    store = get_store(alias)
    exchanges: list[str] = []

    def counted(verb: str) -> Any:
        real = getattr(store, verb)

        def call(*args: Any) -> Any:
            exchanges.append(verb)
            return real(*args)

        return call

    for verb in ("read", "read_many", "claim", "commit", "put", "remove", "release"):
        monkeypatch.setattr(store, verb, counted(verb))
    for _ in range(5):
        job.get("bob")
    assert exchanges == ["read"] * 5, "the guard is set: nothing but the read"
    assert len(shelf.messages) == 1


def test_p2_a_stale_value_does_not_wait_for_a_running_fetch(local: str) -> None:
    gate = Gate()

    class Slow(AsyncCacheJob[int]):
        ttl = 0
        dispatcher = "thread"

        def fetch(self) -> int:
            if Slow.started:
                gate()
            Slow.started = True
            return 1

        started = False

    job = Slow()
    assert job.get() == 1
    assert job.get() == 1
    assert gate.entered.wait(10)
    assert job.get() == 1
    gate.opened.set()


def test_p2_a_dead_dispatcher_fails_no_read(alias: str, shelf: Shelf) -> None:
    shelf.failing = True
    job = Counter(ttl=0)
    assert job.get("bob") == 1
    with heard(dispatch_failed) as events:
        assert job.get("bob") == 1
        assert job.get_many([("bob",)]) == [1]
    assert events, "it is announced"
    shelf.failing = False


def test_p2_a_dispatcher_that_cannot_be_made_fails_no_read(local: str, settings: Any) -> None:
    settings.ASYNC_CACHE = {**settings.ASYNC_CACHE, "DISPATCHER": "tests.jobs.nowhere.Nothing"}
    job = Counter(ttl=0)
    assert job.get("bob") == 1
    with heard(dispatch_failed) as events:
        assert job.get("bob") == 1
    assert events


def test_p2_a_full_queue_fails_no_read(local: str, settings: Any) -> None:
    settings.ASYNC_CACHE = {
        "CACHE": local,
        "QUEUE_SIZE": 1,
        "DISPATCHER": "tests.dispatchers.support.Recorder",
    }
    recorder: Any = get_dispatcher("tests.dispatchers.support.Recorder")
    gate = Gate()
    recorder.on_dispatch = lambda refresh: gate()
    job = Counter(ttl=0)
    names = [f"n{number}" for number in range(5)]
    for name in names:
        job.get(name)
    with heard(dispatch_failed) as events:
        for name in names:
            job.get(name)  # the first one keeps the publisher's thread busy
        assert gate.entered.wait(10)
        for name in names:
            assert isinstance(job.get(name), int)
        gate.opened.set()
        recorder.wait_for(lambda one: len(one.taken) == 1)
        recorder.on_dispatch = None
        recorder.wait_for(lambda one: job.get("n4") and len(one.taken) == 2)
    assert sum(event["count"] for event in events) >= 8, "what did not fit is counted"


class TestMaxStale:
    def test_p2_older_than_max_stale_waits_for_a_refresh(self, alias: str, shelf: Shelf) -> None:
        job = Counter(max_stale=120)
        with freeze() as clock:
            assert job.get("bob") == 1
            clock.advance(119)
            assert job.get("bob") == 1, "stale, but young enough"
            clock.advance(2)
            assert job.get("bob") == 2

    def test_p9_and_falls_back_to_the_stale_value(self, alias: str, shelf: Shelf) -> None:
        class Failing(Counter):
            max_stale = 120

            def fetch(self, name: str = "bob", *, scale: int = 1) -> int:
                if type(self).calls:
                    raise OSError("away")
                return super().fetch(name, scale=scale)

        job = Failing()
        with freeze() as clock:
            assert job.get("bob") == 1
            clock.advance(300)
            assert job.get("bob") == 1
            assert job.explain("bob").last_error == "OSError"


class TestFetchOnMiss:
    def test_a_miss_answers_empty_and_dispatches(self, alias: str, shelf: Shelf) -> None:
        job = Counter(fetch_on_miss=False)
        assert job.get("bob") is None
        assert Counter.calls == 0
        assert job.get("bob") is None
        assert len(shelf.messages) == 1
        shelf.run_all()
        assert job.get("bob") == 1

    def test_empty_may_be_overridden_and_gets_the_arguments(self, local: str, shelf: Shelf) -> None:
        class Empty(Counter):
            fetch_on_miss = False

            def empty(self, name: str = "bob", *, scale: int = 1) -> Any:
                return name, scale

        job: Any = Empty()
        assert job.get("eve", scale=3) == ("eve", 3)
        assert job.get_many([("eve",)]) == [("eve", 1)]


class TestP11:
    VALUES = (
        None,
        True,
        (),
        (1, ("a", None)),
        {1, 2},
        frozenset({"a"}),
        [1.0, 1],
        {"a": (1,), 2: b"\x00"},
        decimal.Decimal("1.10"),
        dt.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=dt.UTC),
        dt.datetime(2026, 1, 2, 3, 4),
        dt.timedelta(milliseconds=1),
        uuid.UUID(int=5),
        b"",
        "",
        0,
        Call((1,), {}),
    )

    def test_p11_a_hit_equals_what_fetch_returned(self, each_alias: str) -> None:
        values = self.VALUES

        class Values(AsyncCacheJob[Any]):
            calls = 0

            def fetch(self, index: int) -> Any:
                Values.calls += 1
                return values[index]

        job = Values()
        for index, value in enumerate(values):
            for _ in range(2):
                got = job.get(index)
                assert got == value
                assert type(got) is type(value)
        assert Values.calls == len(values), "None is a value like others"
        many = job.get_many([(index,) for index in range(len(values))])
        assert many == list(values)
        assert job.peek(0) is None
        assert job.peek(99) is MISSING

    def test_p11_a_hit_is_the_caller_s_own(self, local: str) -> None:
        class Lists(AsyncCacheJob[list[int]]):
            def fetch(self) -> list[int]:
                return [1]

        job = Lists()
        job.get()
        job.get().append(2)
        assert job.get() == [1]


class TestP7:
    @pytest.mark.parametrize(
        "spoil",
        [
            lambda raw: b"",
            lambda raw: raw[:-1],
            lambda raw: raw[:20],
            lambda raw: bytes([raw[0] ^ 1]) + raw[1:],
            lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]),
            lambda raw: b"garbage" * 20,
        ],
    )
    def test_p7_bytes_that_do_not_open_are_a_miss_and_are_announced_once(
        self, alias: str, spoil: Any
    ) -> None:
        job = Counter()
        job.get("bob")
        key = job.explain("bob").key
        store = get_store(alias)
        (raw,) = store.read(store.prepare([key]))
        assert raw is not None
        store.put([(key, spoil(raw), 600.0)])
        with heard(entry_rejected) as events:
            assert job.peek("bob") is MISSING
            assert job.get("bob") == 2
            assert job.get("bob") == 2
        assert len(events) == 2, "one each for peek and get"

    def test_p7_another_key_s_entry_does_not_open(self, alias: str) -> None:
        job = Counter()
        job.get("bob")
        job.get("eve")
        store = get_store(alias)
        (raw,) = store.read(store.prepare([job.explain("eve").key]))
        assert raw is not None
        store.put([(job.explain("bob").key, raw, 600.0)])
        assert job.get("bob") == 3

    def test_p7_what_the_backend_unpickles_is_no_entry(self, alias: str) -> None:
        job = Counter()
        job.get("bob")
        for foreign in ({"a": 1}, "text", 5, None):
            caches[alias].set(job.explain("bob").key, foreign)
            assert isinstance(job.get("bob"), int)

    def test_p7_another_secret_key_makes_misses_and_a_fallback_does_not(
        self, local: str, settings: Any
    ) -> None:
        job = Counter()
        assert job.get("bob") == 1
        old = settings.SECRET_KEY
        settings.SECRET_KEY = "another"
        settings.SECRET_KEY_FALLBACKS = [old]
        assert Counter().get("bob") == 1
        settings.SECRET_KEY_FALLBACKS = []
        assert Counter().get("bob") == 2

    def test_p7_a_value_whose_class_is_gone_is_fetched_again(
        self, alias: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The seal opens, the value does not: the elected caller must not stop at it."""

        class Points(AsyncCacheJob[Any]):
            calls = 0

            def fetch(self, name: str) -> Any:
                Points.calls += 1
                return Point() if Points.calls == 1 else "new"

        job = Points()
        assert isinstance(job.get("a"), Point)
        monkeypatch.delattr(sys.modules[__name__], "Point")
        with heard(entry_rejected) as events:
            assert job.get("a") == "new"
        assert len(events) == 1
        assert job.get("a") == "new"

    def test_p7_a_worker_replaces_a_value_that_does_not_load(
        self, alias: str, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else a job that does not fetch on a miss would never have a value again."""

        class Points(AsyncCacheJob[Any]):
            fetch_on_miss = False
            value: Any = None

            def fetch(self) -> Any:
                return self.value

        Points.value = Point()
        Points().refresh()
        monkeypatch.delattr(sys.modules[__name__], "Point")
        Points.value = "new"
        assert Points().get() is None
        shelf.run_all()
        assert Points().get() == "new"


class TestPeek:
    def test_peek_never_fetches_nor_refreshes(self, alias: str, shelf: Shelf) -> None:
        job = Counter(ttl=0)
        assert job.peek("bob") is MISSING
        assert Counter.calls == 0
        job.get("bob")
        assert job.peek("bob") == 1
        assert not shelf.messages
        job.delete("bob")
        assert job.peek("bob") is MISSING

    def test_peek_raises_for_unkeyable_arguments_only(self, local: str) -> None:
        with pytest.raises(UnkeyableArgument, match="name"):
            Counter().peek(object())


class TestProcessResult:
    def test_it_sees_value_call_and_status(self, alias: str, shelf: Shelf) -> None:
        class Seen(Counter):
            def process_result(self, value: int, call: Call, status: Status) -> Any:
                return value, call.args, status

        job: Any = Seen()
        with freeze() as clock:
            assert job.get("bob") == (1, ("bob",), Status.FRESH)
            assert job.get("bob") == (1, ("bob",), Status.FRESH)
            clock.advance(61)
            assert job.get("bob") == (1, ("bob",), Status.STALE)
            assert job.peek("bob") == (1, ("bob",), Status.STALE)
            assert job.get_many([("bob",)]) == [(1, ("bob",), Status.STALE)]

    def test_what_it_raises_is_the_caller_s(self, local: str) -> None:
        """Even what the read path itself would handle: the value is not fetched again."""

        class Raising(Counter):
            def process_result(self, value: int, call: Call, status: Status) -> Any:
                raise StoreUnavailable("another cache")

        job = Raising()
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="another cache"):
                job.get("bob")
        assert Raising.calls == 1


def test_positional_and_keyword_arguments_are_one_key(alias: str) -> None:
    job = Counter()
    assert job.get() == job.get("bob") == job.get(name="bob") == job.get("bob", scale=1) == 1
    assert job.get("bob", scale=2) == 2
    with pytest.raises(TypeError, match=r"unexpected|missing|too many"):
        job.get("bob", 2)


def test_equal_but_different_arguments_are_different_keys(alias: str) -> None:
    class Typed(AsyncCacheJob[Any]):
        def fetch(self, value: Any) -> Any:
            return type(value).__name__

    job = Typed()
    assert [job.get(value) for value in (1, "1", True, 1.0)] == ["int", "str", "bool", "float"]
    assert [job.get((value,)) for value in (1, True)] == ["tuple", "tuple"]
    assert job.explain((1,)).key != job.explain((True,)).key


def test_refreshes_behind_a_stale_read(alias: str) -> None:
    """The whole circle: stale now, fresh at the next read."""
    job = Counter()
    with freeze() as clock, capture_refreshes() as seen:
        job.get("bob")
        clock.advance(61)
        assert job.get("bob") == 1
        assert job.get("bob") == 2
    assert len(seen.dispatched) == 1
    assert len(seen.committed) == 2


class TestEarly:
    def test_a_threshold_refreshes_before_the_ttl_ends(self, alias: str, shelf: Shelf) -> None:
        job = Counter(early=dt.timedelta(seconds=10))
        reads: list[Callable[[], Any]] = [
            lambda: job.get("bob"),
            lambda: job.get_many([("bob",)])[0],
        ]
        for read in reads:
            shelf.messages.clear()
            with freeze() as clock:
                job.refresh("bob")
                clock.advance(49)
                read()
                assert not shelf.messages
                clock.advance(2)
                assert job.explain("bob").status is Status.FRESH
                read()
                assert len(shelf.messages) == 1
                shelf.run_all()

    def test_a_weight_refreshes_more_likely_near_the_end(self, local: str, shelf: Shelf) -> None:
        class Slow(Counter):
            early = 1.0

            def fetch(self, name: str = "bob", *, scale: int = 1) -> int:
                CLOCK[0].advance(10)
                return 1

        job = Slow()
        chosen: dict[int, int] = {}
        for at in (5, 45):
            chosen[at] = 0
            for number in range(60):
                with freeze() as clock:
                    CLOCK[:] = [clock]
                    name = f"{at} {number}"
                    job.get(name)
                    clock.advance(at)
                    shelf.messages.clear()
                    job.get(name)
                    chosen[at] += len(shelf.messages)
        assert chosen[5] < 15
        assert chosen[45] > 20


CLOCK: list[Any] = []
