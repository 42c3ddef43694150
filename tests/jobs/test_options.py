"""Options: where they come from, what they do, how a mistake is named."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any
from unittest import mock

import pytest
import redis
from django.core.cache import caches

from async_cache import (
    MISSING,
    AsyncCacheJob,
    ConfigurationError,
    Status,
)
from async_cache.jobs.registry import get_job
from async_cache.messages import seal_message
from async_cache.secret_keys import get_ring
from async_cache.signals import call_uncached, refresh_dropped
from async_cache.testing import freeze
from async_cache.worker import run_message, run_sealed
from tests.jobs.support import Shelf, heard

NAME = "tests.jobs.test_options.Timed"


class Timed(AsyncCacheJob[int]):
    ttl = 40
    jitter = 0.0
    calls = 0

    def fetch(self, name: str = "bob") -> int:
        Timed.calls += 1
        return Timed.calls


class Sub(Timed):
    """Inherits the class's options, not the entry of JOBS."""


def minus_one(self: Timed, name: str = "bob") -> int:
    return -1


def say_none(self: Timed, name: str = "bob") -> str:
    return "none"


@pytest.fixture(autouse=True)
def _reset() -> None:
    Timed.calls = 0


def fresh_for(job: Timed) -> float | None:
    with freeze():
        job.refresh()
        left = job.explain().fresh_for
    return None if left is None else round(left, 3)


def test_precedence(alias: str, settings: Any) -> None:
    class Default(AsyncCacheJob[int]):
        jitter = 0.0

        def fetch(self) -> int:
            return 1

    def ask(cls: Any, **options: Any) -> float | None:
        return fresh_for(cls(**options))

    assert ask(Default) == 600
    settings.ASYNC_CACHE = {**settings.ASYNC_CACHE, "DEFAULTS": {"ttl": 10}}
    assert ask(Default) == 10
    assert ask(Timed) == 40
    assert ask(Timed, ttl=30) == 30
    settings.ASYNC_CACHE = {
        **settings.ASYNC_CACHE,
        "JOBS": {NAME: {"ttl": dt.timedelta(seconds=5)}},
    }
    assert ask(Timed) == 5
    assert ask(Timed, ttl=30) == 5, "settings win over everything"
    assert ask(Sub) == 40, "a subclass does not inherit the entry"
    settings.ASYNC_CACHE = {"CACHE": alias, "DISPATCHER": "immediate"}
    assert ask(Timed) == 40, "settings are read on access"


def test_a_change_concerns_new_entries(alias: str, settings: Any) -> None:
    job = Timed()
    with freeze() as clock:
        job.get()
        settings.ASYNC_CACHE = {**settings.ASYNC_CACHE, "JOBS": {NAME: {"ttl": 5}}}
        clock.advance(10)
        assert job.explain().status is Status.FRESH


def test_class_attributes_may_change_at_run_time(
    local: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, other = Timed(), Sub()
    assert fresh_for(job) == 40
    monkeypatch.setattr(Timed, "ttl", 7)
    assert fresh_for(job) == 7
    assert fresh_for(other) == 7
    with mock.patch.object(Sub, "ttl", 3):
        assert fresh_for(other) == 3
    assert fresh_for(other) == 7, "the patch is undone by deleting the attribute"
    with mock.patch.object(Timed, "fetch", minus_one):
        assert job.refresh() == -1
    assert job.refresh() > 0
    with mock.patch.object(Timed, "empty", say_none):
        lazy: Any = Timed(fetch_on_miss=False)
        assert lazy.get("new") == "none"


def test_ttl_may_be_a_method_of_the_value(alias: str) -> None:
    class ByValue(AsyncCacheJob[int]):
        jitter = 0.0

        def ttl(self, value: int) -> Any:
            return None if value == 0 else dt.timedelta(seconds=value)

        def fetch(self, number: int) -> int:
            return number

    job = ByValue()
    with freeze():
        for number, left in ((5, 5), (50, 50), (0, None)):
            job.get(number)
            assert job.explain(number).fresh_for == (left and pytest.approx(left))
        job.set(9, 1)
        assert job.explain(1).fresh_for == pytest.approx(9)


def test_durations_may_be_timedeltas(alias: str) -> None:
    assert fresh_for(Timed(ttl=dt.timedelta(minutes=1))) == 60


def test_max_lifetime_caps_ttl_and_grace(alias: str, settings: Any) -> None:
    settings.ASYNC_CACHE = {**settings.ASYNC_CACHE, "MAX_LIFETIME": 50}
    job = Timed(ttl=100)
    with freeze():
        job.get()
        assert job.explain().fresh_for == pytest.approx(50)
        assert job.explain().servable_for == pytest.approx(50)


class TestMistakes:
    def test_an_unknown_constructor_keyword_is_named_with_the_nearest(self, local: str) -> None:
        with pytest.raises(ConfigurationError, match=r"'tll'.*Did you mean 'ttl'"):
            Timed(tll=3)

        class Made(Timed):
            def __init__(self, currency: str) -> None:
                self.currency = currency

        made: Any = Made
        with pytest.raises(ConfigurationError, match="Did you mean 'currency'"):
            made(curency="EUR")
        assert made(currency="EUR", ttl=3).currency == "EUR"

    def test_a_constructor_that_takes_anything_gets_it(self, local: str) -> None:
        class Open(Timed):
            def __init__(self, **rest: Any) -> None:
                self.rest = rest

        assert Open(tll=3, ttl=5).rest == {"tll": 3}

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"ttl": -1}, "ttl.*negative"),
            ({"ttl": "60"}, "ttl.*duration"),
            ({"ttl": True}, "ttl.*duration"),
            ({"jitter": 2}, "jitter"),
            ({"max_keys": 0}, "max_keys"),
            ({"dispatcher": "selery"}, "celery"),
            ({"vary": "language"}, "vary"),
            ({"negative": "Gone"}, "negative"),
        ],
    )
    def test_a_bad_value_is_named(self, local: str, options: Any, words: str) -> None:
        with pytest.raises(ConfigurationError, match=words):
            Timed(**options).get()

    def test_a_bad_class_attribute_is_named_with_its_job(self, local: str) -> None:
        class Bad(AsyncCacheJob[int]):
            ttl = "soon"

        with pytest.raises(ConfigurationError, match=r"Bad.*ttl"):
            Bad().get()

    def test_a_job_without_fetch_says_so(self, local: str) -> None:
        class Nothing(AsyncCacheJob[int]):
            pass

        with pytest.raises(NotImplementedError, match="Nothing has no fetch"):
            Nothing().get()

    def test_an_unknown_alias_is_named(self, local: str) -> None:
        with pytest.raises(ConfigurationError, match="nowhere"):
            Timed(cache="nowhere").get()

    def test_an_unknown_vary_is_named(self, local: str) -> None:
        with pytest.raises(ConfigurationError, match="moon"):
            Timed(vary=("moon",)).get()


class TestConstructor:
    def test_its_arguments_are_part_of_the_key_and_options_are_not(self, alias: str) -> None:
        class Priced(AsyncCacheJob[str]):
            def __init__(self, currency: str, *, digits: int = 2) -> None:
                self.currency = currency
                self.digits = digits

            def fetch(self) -> str:
                return f"{self.currency} {self.digits}"

        assert Priced("EUR").get() == "EUR 2"
        assert Priced("USD").get() == "USD 2"
        assert Priced("EUR", digits=3).get() == "EUR 3"
        priced: Any = Priced
        same = [
            Priced("EUR"),
            Priced(currency="EUR"),
            Priced("EUR", digits=2),
            priced("EUR", ttl=5),
        ]
        assert len({job.explain().key for job in same}) == 1

    def test_they_travel_to_the_worker_with_the_options(self, alias: str, shelf: Shelf) -> None:
        class Travelled(AsyncCacheJob[Any]):
            jitter = 0.0
            negative = ()

            def __init__(self, place: tuple[int, str]) -> None:
                self.place = place

            def fetch(self, name: str) -> Any:
                if name == "gone":
                    raise KeyError(name)
                return self.place, name

        travelled: Any = Travelled
        job = travelled((1, "x"), ttl=77, negative=(KeyError,), fetch_on_miss=False)
        with freeze():
            job.get("a")
            job.get("gone")
            shelf.run_all()
            assert job.get("a") == ((1, "x"), "a")
            assert job.explain("a").fresh_for == pytest.approx(77)
            assert job.explain("gone").negative

    def test_they_may_be_called_like_an_option(self, local: str) -> None:
        class Versioned(AsyncCacheJob[str]):
            def __init__(self, version: str) -> None:
                self.which = version

            def fetch(self) -> str:
                return self.which

        assert Versioned(version="one").get() == "one"
        assert Versioned(version="two").get() == "two"

    def test_unkeyable_ones_are_named(self, local: str) -> None:
        class Odd(AsyncCacheJob[str]):
            def __init__(self, thing: object) -> None:
                self.thing = thing

            def fetch(self) -> str:
                return "x"

        with pytest.raises(TypeError, match="constructor"):
            Odd(object()).get()


class TestVersion:
    def test_another_version_is_another_entry(self, alias: str) -> None:
        assert Timed(version=1).get() == 1
        assert Timed(version=2).get() == 2
        assert Timed(version="b").get() == 3
        assert Timed(version=1).get() == 1

    def test_invalidations_reach_every_version(self, alias: str) -> None:
        for version in (1, 2):
            Timed(version=version).get()
        Timed(version=1).delete()
        assert Timed(version=2).peek() is MISSING


class TestCacheAlias:
    def test_a_job_may_live_in_another_cache(self, local: str, settings: Any) -> None:
        settings.CACHES = {
            **settings.CACHES,
            "side": {
                "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
                "LOCATION": "side",
            },
        }
        job = Timed(cache="side")
        job.get()
        caches["default"].clear()
        assert job.peek() == 1
        caches["side"].clear()
        assert job.peek() is MISSING

    def test_key_prefix_and_version_of_the_alias_hold(
        self, redis_caches: str, settings: Any
    ) -> None:
        settings.ASYNC_CACHE = {"CACHE": "redis", "DISPATCHER": "immediate"}
        caches["redis"].clear()
        assert Timed().get() == 1
        other = {**settings.CACHES["redis"], "KEY_PREFIX": "tenant"}
        settings.CACHES = {**settings.CACHES, "redis": other}
        assert Timed().get() == 2

    def test_p10_every_key_in_redis_has_a_timeout_and_the_prefix(
        self, redis_caches: str, settings: Any
    ) -> None:
        settings.ASYNC_CACHE = {"CACHE": "redis", "DISPATCHER": "immediate", "KEY_PREFIX": "mine"}
        job = Timed(max_keys=5, tags=("a",))
        job.get()
        job.invalidate()
        job.get()
        job.set(5, "eve")
        job.clear()
        with redis.Redis.from_url(redis_caches) as client:
            keys = list(client.scan_iter())
            assert keys
            assert all(b"mine:" in key for key in keys)
            assert all(client.ttl(key) > 0 for key in keys)


class TestMaxKeys:
    def test_past_it_a_new_key_is_answered_uncached_and_counted(self, alias: str) -> None:
        job = Timed(max_keys=2)
        assert [job.get(name) for name in "ab"] == [1, 2]
        with heard(call_uncached) as events:
            assert job.get("c") == 3
            assert job.get("c") == 4
        assert len(events) == 2
        assert events[0]["max_keys"] == 2
        assert [job.get(name) for name in "ab"] == [1, 2], "those it has are kept"
        assert job.get_many([("a",), ("d",)]) == [1, 5]

    def test_clear_makes_room(self, alias: str) -> None:
        job = Timed(max_keys=1)
        job.get("a")
        job.clear()
        job.get("b")
        assert job.peek("b") == 2


class TestWorkerSide:
    def test_p5_an_unknown_job_is_dropped_and_announced_once(
        self, alias: str, shelf: Shelf, caplog: pytest.LogCaptureFixture
    ) -> None:
        job = Timed(ttl=0)
        job.get()
        job.get()
        message = dataclasses.replace(shelf.messages.pop().message, job="tests.nowhere.Renamed")
        with heard(refresh_dropped) as events:
            run_message(message)
        assert [(one["job"], one["reason"]) for one in events] == [
            ("tests.nowhere.Renamed", "unknown")
        ]
        told = [one for one in caplog.records if "Renamed" in one.getMessage()]
        assert len(told) <= 1, "a warning is not repeated at once"
        assert job.get() == 1, "no stored value is lost"

    def test_p7_a_forged_or_damaged_message_is_dropped(self, alias: str, shelf: Shelf) -> None:
        job = Timed(ttl=0)
        job.get()
        job.get()
        text = seal_message(shelf.messages.pop().message, get_ring())
        for spoiled in (text[:-1], text.replace("bob", "eve"), "", "1." + "0" * 32 + ".{}"):
            with heard(refresh_dropped) as events:
                run_sealed(spoiled)
            assert len(events) == 1
        assert Timed.calls == 1

    def test_a_stopped_message_is_dropped_when_it_has_expired(
        self, alias: str, shelf: Shelf
    ) -> None:
        job = Timed(ttl=0)
        with freeze() as clock, heard(refresh_dropped) as events:
            job.get()
            job.get()
            clock.advance(hours=3)
            shelf.run_all()
        assert [event["reason"] for event in events] == ["expired"]

    def test_a_job_may_keep_its_name_when_it_moves(self, local: str) -> None:
        class Moved(AsyncCacheJob[int]):
            name = "shop.jobs.Old"

            def fetch(self) -> int:
                return 1

        assert get_job("shop.jobs.Old") is Moved
        assert Moved().explain().job == "shop.jobs.Old"


class TestExplain:
    def test_a_miss(self, alias: str) -> None:
        state = Timed().explain("bob")
        assert state.status is Status.MISS
        assert state.age is state.fresh_for is state.servable_for is state.fetch_seconds is None
        assert state.reason == "not in the cache"
        assert state.size == 0
        assert state.refresh is state.task_id is None

    def test_fresh_stale_queued_and_fetching(self, alias: str, shelf: Shelf) -> None:
        job = Timed(grace=100, tags=("t",))
        with freeze() as clock:
            job.get("bob")
            clock.advance(30)
            state = job.explain("bob")
            assert (state.status, state.age) == (Status.FRESH, 30)
            assert state.fresh_for == pytest.approx(10)
            assert state.servable_for == pytest.approx(110)
            assert state.tags == ("t",)
            assert state.size > 50
            clock.advance(20)
            state = job.explain("bob")
            assert (state.status, state.reason) == (Status.STALE, "older than its ttl")
            assert state.fresh_for is None
            job.get("bob")
            state = job.explain("bob")
            assert state.refresh == "queued"
            assert state.task_id == shelf.messages[0].task_id
            clock.advance(200)
            assert job.explain("bob").reason == "older than ttl + grace"
            with pytest.raises(AttributeError):
                state.age = 3  # type: ignore[misc]

    def test_why(self, alias: str) -> None:
        job = Timed()
        job.get("bob")
        job.invalidate("bob")
        assert "invalidated" in job.explain("bob").reason
        job.refresh("bob")
        job.clear()
        assert "cleared" in job.explain("bob").reason
