"""`async_cache.testing`, as a project's tests use it."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from django.test import override_settings

from async_cache import AsyncCacheJob, QuerySetGetJob, Status, call
from async_cache import clock as package_clock
from async_cache.testing import (
    assert_refreshes,
    capture_refreshes,
    freeze,
    refresh_immediately,
)
from tests.app.models import Author
from tests.jobs.support import Shelf


class Rates(AsyncCacheJob[str]):
    ttl = 60
    jitter = 0.0
    calls = 0

    def fetch(self, base: str = "EUR", *, scale: int = 1) -> str:
        Rates.calls += 1
        if base == "bad":
            raise ZeroDivisionError
        return f"{base} {Rates.calls}"


@pytest.fixture(autouse=True)
def _reset() -> None:
    Rates.calls = 0


class TestClock:
    def test_it_stands_until_it_is_moved(self, local: str) -> None:
        with freeze(1000.0) as clock:
            assert package_clock.now() == 1000.0
            clock.advance(5)
            clock.advance(dt.timedelta(seconds=5))
            clock.advance(minutes=1)
            assert package_clock.now() == 1070.0
            clock.move_to(dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
            assert package_clock.now() == dt.datetime(2026, 1, 1, tzinfo=dt.UTC).timestamp()
            with pytest.raises(ValueError, match="move_to"):
                clock.advance(-1)
        assert package_clock.now() > 1_700_000_000

    def test_waits_notice_what_is_advanced(self, local: str) -> None:
        with freeze() as clock:
            before = package_clock.monotonic()
            clock.advance(100)
            assert package_clock.monotonic() - before >= 100
            clock.move_to(0)
            assert package_clock.monotonic() - before < 110

    def test_it_is_given_back_after_an_error(self, local: str) -> None:
        now = package_clock.now
        with pytest.raises(KeyError), freeze():
            raise KeyError
        assert package_clock.now is now


class TestImmediately:
    def test_a_stale_read_refreshes_before_it_returns(self, local: str, settings: Any) -> None:
        settings.ASYNC_CACHE = {"DISPATCHER": "celery"}
        with refresh_immediately(), freeze() as clock:
            assert Rates().get() == "EUR 1"
            clock.advance(61)
            assert Rates().get() == "EUR 1"
            assert Rates().get() == "EUR 2"

    def test_it_keeps_the_other_settings_and_their_jobs(self, local: str, settings: Any) -> None:
        name = "tests.jobs.test_testing_kit.Rates"
        settings.ASYNC_CACHE = {"JOBS": {name: {"dispatcher": "celery", "ttl": 5}}}
        with refresh_immediately(), freeze() as clock:
            Rates().get()
            clock.advance(6)
            Rates().get()
            assert Rates().get() == "EUR 2"

    def test_it_decorates(self, local: str) -> None:
        @refresh_immediately()
        def inside() -> str:
            job = Rates(ttl=0)
            job.get()
            job.get()
            return job.get()

        assert inside() == "EUR 2"


class TestAssertions:
    def test_what_was_refreshed(self, local: str) -> None:
        with freeze() as clock:
            Rates().get("EUR")
            Rates().get("USD")
            clock.advance(61)
            with assert_refreshes(Rates, ["EUR", {"base": "USD"}]):
                Rates().get("EUR")
                Rates().get("USD")
            with assert_refreshes(Rates(), []):
                Rates().get("EUR")
            with assert_refreshes(Rates, [("CHF",), call("CHF", scale=2)]):
                Rates().get("CHF")
                Rates().get("CHF", scale=2)

    @pytest.mark.parametrize(
        ("calls", "words"),
        [(["EUR", "USD"], "not committed"), ([], "besides"), (["USD"], "not committed.*besides")],
    )
    def test_it_says_what_is_missing_and_what_is_too_much(
        self, local: str, calls: list[Any], words: str
    ) -> None:
        with pytest.raises(AssertionError, match=words), assert_refreshes(Rates, calls):
            Rates().get("EUR")

    def test_it_says_what_happened_twice(self, local: str) -> None:
        watch = assert_refreshes(Rates, ["EUR"])
        watch.__enter__()
        Rates().refresh("EUR")
        Rates().refresh("EUR")
        with pytest.raises(AssertionError, match="more than once"):
            watch.__exit__(None, None, None)

    def test_other_ends(self, local: str, shelf: Shelf) -> None:
        with assert_refreshes(Rates, ["bad"], on="failed"), pytest.raises(ZeroDivisionError):
            Rates().get("bad")
        Rates(ttl=0).get("EUR")
        with assert_refreshes(Rates, ["EUR"], on="dispatched"):
            Rates(ttl=0).get("EUR")
        with assert_refreshes(Rates, ["EUR"], on="coalesced"):
            Rates().refresh_later("EUR")

    def test_an_exception_of_the_block_is_not_hidden(self, local: str) -> None:
        with pytest.raises(KeyError), assert_refreshes(Rates, ["EUR"]):
            raise KeyError

    def test_another_job_s_refreshes_do_not_count(self, local: str) -> None:
        class Other(AsyncCacheJob[int]):
            def fetch(self) -> int:
                return 1

        with assert_refreshes(Rates, []), capture_refreshes() as seen:
            Other().get()
        assert len(seen.committed) == 1

    @pytest.mark.django_db
    def test_a_queryset_job_s_scalar_is_the_pk(self, local: str) -> None:
        author = Author.objects.create(name="Ann")
        with assert_refreshes(QuerySetGetJob(Author), [author.pk]):
            QuerySetGetJob(Author).get(pk=author.pk)


def test_settings_may_be_overridden_around_it(local: str) -> None:
    chosen = {"DEFAULTS": {"grace": 0}, "DISPATCHER": "immediate"}
    with override_settings(ASYNC_CACHE=chosen), freeze() as clock:
        Rates().get()
        clock.advance(61)
        assert Rates().explain().status is Status.MISS
