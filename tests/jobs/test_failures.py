"""P9 errors are honest, P8 outages degrade."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from async_cache import (
    MISSING,
    AsyncCacheJob,
    FetchTimeout,
    FetchUnavailable,
    RecursiveFetch,
    Status,
    StoreUnavailable,
    UnstorableValue,
    flights,
    invalidate_tags,
    invalidation,
)
from async_cache.signals import (
    refresh_failed,
    scope_invalidated,
    store_failed,
    store_recovered,
)
from async_cache.stores.registry import get_store
from async_cache.testing import freeze
from tests.jobs.support import SECONDS, Caller, Gate, Shelf, heard
from tests.servers import RedisServer


class Broken(Exception):
    """What the source raises."""


class Source(AsyncCacheJob[Any]):
    ttl = 60
    grace = 100_000
    jitter = 0.0
    tags = ("all",)
    answers: list[Any]
    calls = 0

    def fetch(self, name: str = "bob") -> Any:
        Source.calls += 1
        answer = Source.answers.pop(0) if len(Source.answers) > 1 else Source.answers[0]
        if isinstance(answer, Gate):
            answer()
            answer = Source.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def _reset() -> None:
    Source.answers = ["value"]
    Source.calls = 0


class TestFailedFetch:
    def test_p9_the_exception_reaches_the_fetcher_unchanged(self, alias: str) -> None:
        error = Broken("as it is")
        Source.answers = [error]
        with pytest.raises(Broken) as caught:
            Source().get()
        assert caught.value is error

    def test_p9_who_comes_before_the_back_off_ends_gets_fetch_unavailable(self, alias: str) -> None:
        Source.answers = [Broken()]
        job = Source()
        with freeze():
            with pytest.raises(Broken):
                job.get()
            with pytest.raises(FetchUnavailable, match="Broken") as caught:
                job.get()
            assert caught.value.error_type.endswith("test_failures.Broken")
            assert caught.value.retry_after == pytest.approx(0.75, abs=0.26)
            assert Source.calls == 1

    def test_p9_the_next_is_tried_when_the_back_off_ends(self, alias: str) -> None:
        job = Source()
        Source.answers = [Broken(), "value"]
        with freeze() as clock:
            with pytest.raises(Broken):
                job.get()
            clock.advance(1.1)
            assert job.get() == "value"
            assert job.explain().failures == 0, "a success forgets them"

    def test_p9_the_back_off_doubles_with_jitter_and_is_capped(self, alias: str) -> None:
        Source.answers = [Broken()]
        job = Source()
        waits = []
        with freeze() as clock:
            for _ in range(9):
                with pytest.raises(Broken):
                    job.get()
                waits.append(job.explain().retry_after)
                assert job.explain().last_error.endswith("Broken")
                clock.advance(waits[-1] + 0.01)
        for number, wait in enumerate(waits):
            step = min(60, 2**number)
            assert step / 2 <= wait + 0.01 <= step + 0.01

    def test_p9_those_who_waited_get_fetch_unavailable(self, alias: str) -> None:
        gate = Gate()
        Source.answers = [gate, Broken("once")]
        job = Source()
        first = Caller(job.get)
        assert gate.entered.wait(SECONDS)
        second = Caller(job.get).blocked()
        many = Caller(lambda: job.get_many([("bob",)])).blocked()
        gate.opened.set()
        with pytest.raises(Broken):
            first.result()
        with pytest.raises(FetchUnavailable, match="Broken"):
            second.result()
        (error,) = many.result()
        assert isinstance(error, FetchUnavailable)
        assert Source.calls == 1

    def test_p9_all_of_them_get_empty_where_it_is_overridden(self, alias: str) -> None:
        class Empty(Source):
            def empty(self, name: str = "bob") -> Any:
                return f"no {name}"

        Source.answers = [Broken()]
        job = Empty()
        assert job.get("eve") == "no eve"
        assert job.get("eve") == "no eve"
        assert job.get_many([("eve",), ("bob",)]) == ["no eve", "no bob"]
        assert Source.calls == 2

    def test_p9_a_stale_value_is_kept_and_the_failure_recorded(
        self, alias: str, shelf: Shelf
    ) -> None:
        job = Source()
        Source.answers = ["value", Broken("secret")]
        with freeze() as clock, heard(refresh_failed) as events:
            job.get()
            clock.advance(61)
            assert job.get() == "value"
            shelf.run_all()
            assert job.get() == "value"
            state = job.explain()
            assert state.status is Status.STALE
            assert state.failures == 1
            assert state.retry_after > 0
            assert state.refresh is None
        assert [event["error_type"] for event in events] == [state.last_error]

    def test_p9_a_failure_does_not_renew_the_hard_bound(self, alias: str, shelf: Shelf) -> None:
        job = Source(grace=100)
        Source.answers = ["value", Broken()]
        with freeze() as clock:
            job.get()
            before = job.explain().servable_for
            clock.advance(70)
            job.get()
            shelf.run_all()
            after = job.explain().servable_for
        assert before is not None
        assert after == pytest.approx(before - 70)

    def test_p9_a_message_during_the_back_off_fetches_nothing(
        self, alias: str, shelf: Shelf
    ) -> None:
        job = Source()
        Source.answers = ["value", Broken()]
        with freeze() as clock:
            job.get()
            clock.advance(61)
            job.get()
            shelf.run_all()
            clock.advance(0.1)
            job.refresh_later()
            assert shelf.run() == {"backed off": 1}
        assert Source.calls == 2

    def test_invalidate_ends_the_back_off(self, alias: str) -> None:
        job = Source()
        Source.answers = [Broken(), "value"]
        with pytest.raises(Broken):
            job.get()
        job.invalidate()
        assert job.get() == "value"

    def test_p4_after_a_failed_refresh_an_invalidation_is_asked_for_at_once(
        self, alias: str, shelf: Shelf
    ) -> None:
        """The guard of this process holds for one state of the stamps, not for the entry."""
        job = Source()
        Source.answers = ["value", Broken(), "new"]
        with freeze():
            job.get()
            job.invalidate()
            job.get()
            shelf.run_all()
            job.get()
            assert not shelf.messages, "guarded"
            job.invalidate()
            job.get()
            shelf.run_all()
            assert job.get() == "new"

    def test_refresh_tries_in_spite_of_the_back_off(self, alias: str) -> None:
        job = Source()
        Source.answers = [Broken(), "value"]
        with pytest.raises(Broken):
            job.refresh()
        assert job.refresh() == "value"

    def test_p9_an_unstorable_value_is_a_failed_refresh(self, alias: str, shelf: Shelf) -> None:
        job = Source()
        Source.answers = ["value", lambda: None]
        with freeze() as clock:
            job.get()
            clock.advance(61)
            job.get()
            shelf.run_all()
            assert job.get() == "value"
            assert job.explain().last_error.endswith("UnstorableValue")
        with pytest.raises(UnstorableValue):
            job.get("other")

    def test_p9_a_too_large_value_is_found_before_the_write(
        self, alias: str, settings: Any
    ) -> None:
        settings.ASYNC_CACHE = {**settings.ASYNC_CACHE, "MAX_VALUE_SIZE": 1000}
        Source.answers = ["x" * 2000]
        job = Source()
        with pytest.raises(UnstorableValue):
            job.get()
        assert job.explain().size == 0

    def test_a_fetch_past_its_limit_is_a_fetch_timeout(self, local: str) -> None:
        class Forever(AsyncCacheJob[Any]):
            fetch_timeout = 0.05

            async def fetch(self) -> Any:
                await asyncio.sleep(60)

        with pytest.raises(FetchTimeout, match=r"0\.05"):
            Forever().get()

    def test_a_fetch_s_own_timeout_error_is_not_ours(self, local: str) -> None:
        class Own(AsyncCacheJob[Any]):
            async def fetch(self) -> Any:
                raise TimeoutError("the source's")

        with pytest.raises(TimeoutError, match="the source's") as caught:
            Own().get()
        assert not isinstance(caught.value, FetchTimeout)


class TestInsideFetch:
    def test_one_s_own_key_is_refused(self, alias: str) -> None:
        class Loop(AsyncCacheJob[Any]):
            def fetch(self, how: str) -> Any:
                if how == "many":
                    (found,) = self.get_many([(how,)])
                    raise found if isinstance(found, Exception) else AssertionError
                return getattr(self, how)(how)

        for how in ("get", "refresh", "many"):
            with pytest.raises(RecursiveFetch):
                Caller(lambda how=how: Loop().get(how)).result()  # type: ignore[misc]

    def test_a_recursive_get_many_leaves_no_other_key_behind(self, local: str) -> None:
        """Flights that it had already begun must end, or their keys would be stuck."""

        class Loop(AsyncCacheJob[Any]):
            wait = 2

            def fetch(self, name: str) -> Any:
                if name == "outer":
                    first, second = self.get_many([("other",), ("outer",)])
                    assert isinstance(second, RecursiveFetch)
                    return first
                return name

        assert Loop().get("outer") == "other"
        assert Caller(lambda: Loop().get("other")).result() == "other"

    def test_another_key_is_answered(self, alias: str) -> None:
        class Tree(AsyncCacheJob[int]):
            def fetch(self, depth: int) -> int:
                return self.get(depth - 1) + 1 if depth else 0

        assert Tree().get(20) == 20
        assert Tree().peek(10) == 10

    def test_two_fetches_that_ask_for_each_other_s_keys_both_end(self, alias: str) -> None:
        """Who holds a lease never waits for another's."""
        ready = threading.Barrier(2)

        # Each outer fetch asks for the other's key while both are being fetched.
        class Pair(AsyncCacheJob[str]):
            wait = 60
            met = False

            def fetch(self, name: str) -> str:
                if not Pair.met:
                    ready.wait(SECONDS)
                    Pair.met = True
                    return name + self.get("b" if name == "a" else "a")
                return name

        first, second = Caller(lambda: Pair().get("a")), Caller(lambda: Pair().get("b"))
        assert {first.result()[0], second.result()[0]} == {"a", "b"}


class TestWaiting:
    def test_past_wait_the_caller_gets_fetch_unavailable(self, alias: str) -> None:
        gate = Gate()
        Source.answers = [gate, "value"]
        job = Source(wait=0.05)
        first = Caller(job.get)
        assert gate.entered.wait(SECONDS)
        with pytest.raises(FetchUnavailable, match="wait"):
            Caller(job.get).result()
        gate.opened.set()
        assert first.result() == "value"
        assert job.get() == "value"

    def test_another_process_s_lease_is_waited_for_and_its_value_taken(self, alias: str) -> None:
        """A flight of this process stands for another's: it is hidden from the second caller."""
        gate = Gate()
        Source.answers = [gate, "value"]
        job = Source(ttl=0)  # what it takes may be stale by then
        first = Caller(job.get)
        assert gate.entered.wait(SECONDS)
        flights._flights.clear()
        second = Caller(job.get)
        impatient = Source(wait=0.05)
        flights._flights.clear()
        with pytest.raises(FetchUnavailable):
            Caller(impatient.get).result()
        gate.opened.set()
        assert first.result() == second.result() == "value"
        assert Source.calls == 1

    def test_who_waits_longer_than_its_leader_goes_on_waiting(self, alias: str) -> None:
        gate = Gate()
        Source.answers = [gate, "value"]
        first = Caller(Source().get)
        assert gate.entered.wait(SECONDS)
        flights._flights.clear()
        leader = Caller(Source(wait=0.3).get)
        wait_for(lambda: flights._flights)
        follower = Caller(Source(wait=SECONDS).get).blocked()
        with pytest.raises(FetchUnavailable):
            leader.result()
        gate.opened.set()
        assert first.result() == follower.result() == "value"
        assert Source.calls == 1

    @pytest.mark.parametrize("many", [False, True])
    def test_p5_a_fetch_that_hangs_does_not_hold_the_key_for_ever(
        self, alias: str, many: bool
    ) -> None:
        gate = Gate()
        Source.answers = [gate, "value"]
        job = Source(fetch_timeout=0.2, lease=1, wait=0.3)

        def ask() -> Any:
            (found,) = job.get_many([()]) if many else (job.get(),)
            if isinstance(found, Exception):
                raise found
            return found

        first = Caller(job.get)
        assert gate.entered.wait(SECONDS)

        def answered() -> bool:
            try:
                return bool(ask() == "value")
            except FetchUnavailable:
                return False

        wait_for(answered)
        assert not gate.opened.is_set()
        gate.opened.set()
        assert first.result() == "value"

    def test_a_leader_that_is_interrupted_leaves_the_flight_to_another(self, alias: str) -> None:
        class Stop(BaseException):
            pass

        gate = Gate()
        calls: list[int] = []

        class Interrupted(AsyncCacheJob[str]):
            def fetch(self) -> str:
                calls.append(1)
                if len(calls) == 1:
                    gate()
                    raise Stop
                return "value"

        job = Interrupted()
        first = Caller(job.get)
        assert gate.entered.wait(SECONDS)
        second = Caller(job.get).blocked()
        gate.opened.set()
        with pytest.raises(Stop):
            first.result()
        assert second.result() == "value"


@pytest.fixture
def outage(redis_server: RedisServer, settings: Any) -> RedisServer:
    """Return a Redis that may be stopped; it is the project's cache."""
    settings.CACHES = {
        **settings.CACHES,
        "away": {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": redis_server.url,
            "OPTIONS": {"SOCKET_CONNECT_TIMEOUT": 0.2, "SOCKET_TIMEOUT": 0.2},
        },
    }
    settings.ASYNC_CACHE = {"CACHE": "away", "DISPATCHER": "immediate"}
    return redis_server


class TestCacheDown:
    def test_p8_values_are_fetched_directly_and_the_cache_comes_back(
        self, outage: RedisServer
    ) -> None:
        job = Source()
        assert job.get() == "value"
        with heard(store_failed, store_recovered) as events:
            outage.stop()
            Source.answers = ["direct"]
            assert job.get() == "direct"
            assert job.get_many([("a",), ("b",)]) == ["direct", "direct"]
            assert job.refresh() == "direct"
            assert job.peek() is MISSING
            assert job.get() == "direct"
            outage.start()
            Source.answers = ["stored"]
            wait_for(lambda: job.get() == "stored" and job.peek() == "stored")
        assert {event["alias"] for event in events} == {"away"}
        kinds = [event["signal"] for event in events]
        assert kinds.count(store_recovered) == 1, "the recovery is announced, once"
        assert store_failed in kinds[: kinds.index(store_recovered)]

    def test_p8_fetches_are_single_flight(self, outage: RedisServer) -> None:
        outage.stop()
        gate = Gate()
        Source.answers = [gate, "value"]
        job = Source()
        first = Caller(job.get)
        assert gate.entered.wait(SECONDS)
        others = [Caller(job.get) for _ in range(8)]
        for other in others:
            other.blocked()
        gate.opened.set()
        assert [one.result() for one in [first, *others]] == ["value"] * 9
        assert Source.calls == 1

    def test_p8_without_fetch_on_miss_empty_answers(self, outage: RedisServer) -> None:
        outage.stop()
        assert Source(fetch_on_miss=False).get() is None
        assert Source.calls == 0

    def test_p8_set_and_explain_say_that_the_cache_is_away(self, outage: RedisServer) -> None:
        outage.stop()
        with pytest.raises(StoreUnavailable, match="away"):
            Source().set("x")
        with pytest.raises(StoreUnavailable):
            Source().explain()

    @pytest.mark.parametrize("verb", ["delete", "clear", "invalidate", "tags"])
    def test_p8_a_failed_invalidation_binds_this_process_and_is_retried(
        self, redis_caches: str, settings: Any, verb: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings.ASYNC_CACHE = {"CACHE": "redis", "DISPATCHER": "immediate"}
        job = Source()
        job.delete()
        assert job.get() == "value"
        Source.answers = ["new"]
        store = get_store("redis")
        real = store.put

        def refused(items: Any) -> None:
            raise StoreUnavailable("The cache 'redis' failed: the test says so.")

        monkeypatch.setattr(store, "put", refused)
        with pytest.raises(StoreUnavailable):
            invalidate_tags("all") if verb == "tags" else getattr(job, verb)()
        assert invalidation.unconfirmed
        if verb in ("delete", "clear"):
            assert job.peek() is MISSING
            assert job.get() == "new", "gone at once in this process"
            assert job.get_many([()]) == ["new"]
        else:
            assert job.get() == "value", "stale, but servable"
            assert Source.calls == 2, "and refreshed behind the read"
        with heard(scope_invalidated) as events:
            monkeypatch.setattr(store, "put", real)
            wait_for(lambda: not invalidation.unconfirmed and events)
        assert len(events) == 1
        assert job.get() in ("value", "new")
        assert job.get() == "new", "the stamps in the cache have moved"

    def test_p8_a_broken_store_between_claim_and_commit_keeps_the_value(
        self, alias: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refused(commits: Any) -> Any:
            raise StoreUnavailable("The test says so.")

        monkeypatch.setattr(get_store(alias), "commit", refused)
        assert Source().get() == "value"

    def test_p8_the_store_failing_while_tags_are_read_keeps_the_value(
        self, alias: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = get_store(alias)

        def refused(*args: Any) -> Any:
            raise StoreUnavailable("The test says so.")

        class Tagged(AsyncCacheJob[str]):
            def fetch(self, *, ctx: Any) -> str:
                ctx.add_tags("found")
                monkeypatch.setattr(store, "read", refused)
                return "value"

        assert Tagged().get() == "value"


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)


def test_p5_disabled_everything_is_fetched(local: str, settings: Any) -> None:
    settings.ASYNC_CACHE = {**settings.ASYNC_CACHE, "ENABLED": False}
    job = Source()
    assert job.get() == job.get() == "value"
    assert job.get_many([(), ("a",)]) == ["value", "value"]
    assert Source.calls == 4
    assert job.peek() is MISSING
