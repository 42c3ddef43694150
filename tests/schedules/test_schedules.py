"""What jobs declare, what a tick asks for, and what is written for Celery beat."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from celery import current_app
from celery.schedules import crontab
from django.contrib.auth import get_user_model
from django.core.management import CommandError
from django.utils import translation
from kombu.utils import json as kombu_json

from async_cache import QuerySetFilterJob, QuerySetGetJob, cached, publisher
from async_cache.exceptions import ConfigurationError, UnknownJob
from async_cache.jobs import registry
from async_cache.schedules import all_plans, beat_schedule, models
from async_cache.schedules.plans import plan_of
from async_cache.schedules.tasks import run_tick
from async_cache.schedules.ticking import Ticked, is_due, parts_of
from async_cache.schedules.ticking import tick as tick_plan
from async_cache.testing import freeze
from tests.jobs.support import Shelf
from tests.schedules.support import build, schedule


@pytest.fixture(autouse=True)
def _shelf(settings: Any) -> None:
    settings.ASYNC_CACHE = {"DISPATCHER": "tests.jobs.support.Shelf"}


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return what makes the only jobs that there are."""
    monkeypatch.setattr(registry, "_jobs", {})

    return partial(build, __name__)


def shelf_of(job: Any) -> Shelf:
    found = job()._runtime.dispatcher
    assert isinstance(found, Shelf)
    return found


def calls_in(shelf: Shelf) -> list[Any]:
    return [item.call.args for refresh in shelf.messages for item in refresh.message.items]


NAME = f"{__name__}.Rates"


def function_without_arguments() -> int:
    return 1


def tick(name: str, part: int = 0, parts: int = 1) -> Ticked:
    plan = plan_of(name)
    assert plan is not None
    return tick_plan(plan, None, part, parts)


class TestPlans:
    def test_an_interval(self, make: Callable[..., Any]) -> None:
        make(refresh_every=timedelta(minutes=5), refresh_calls=[("EUR",), {"base": "USD"}])
        make("Plain")
        [plan] = all_plans()
        assert (plan.job, plan.described) == (NAME, "every 300 s")
        assert list(plan.calls()) == [(("EUR",), {}), ((), {"base": "USD"})]

    def test_the_settings_win(self, make: Callable[..., Any], settings: Any) -> None:
        make(refresh_every=5, refresh_calls=[("EUR",)])
        settings.ASYNC_CACHE = {"JOBS": {NAME: {"refresh_every": 7}}}
        assert all_plans()[0].described == "every 7 s"

    @pytest.mark.parametrize("declared", [crontab(minute="*/5", hour=3), "*/5 3 * * *"])
    def test_a_crontab(self, make: Callable[..., Any], declared: Any) -> None:
        make(refresh_schedule=declared, fetch=lambda self: 1)
        [plan] = all_plans()
        assert plan.described == "*/5 3 * * *"
        assert list(plan.calls()) == [((), {})]

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"refresh_every": 0}, "refresh_every"),
            ({"refresh_every": "often"}, "refresh_every"),
            ({"refresh_every": 5, "refresh_schedule": crontab()}, "two schedules"),
            ({"refresh_schedule": "* * *"}, "has 3 fields"),
            ({"refresh_schedule": "61 * * * *"}, "no crontab"),
            ({"refresh_schedule": 300}, "there is refresh_every"),
            ({"refresh_every": 5, "refresh_calls": None}, "name the calls"),
            ({"refresh_every": 5, "refresh_calls": "EUR"}, "is a str"),
            ({"refresh_every": 5, "refresh_calls": [("EUR", "USD")]}, "does not fit fetch"),
            ({"refresh_every": 5, "refresh_calls": ["EUR"]}, "does not fit fetch"),
            ({"refresh_every": 5, "refresh_calls": lambda self: [{"bas": 1}]}, "does not fit"),
            ({"refresh_every": 5, "refresh_calls": iter([("EUR",)])}, "used up"),
            ({"refresh_every": 5, "refresh_calls": [(object(),)]}, "object"),
        ],
    )
    def test_one_that_cannot_be(
        self, make: Callable[..., Any], given: dict[str, Any], words: str, tmp_path: Path
    ) -> None:
        make(**{"refresh_calls": [("EUR",)], **given})
        path = tmp_path / "beat.py"
        with pytest.raises((ConfigurationError, CommandError), match=words):
            schedule("--write", "static", "--output", str(path))
        assert not path.exists()

    def test_a_job_that_needs_arguments(self, make: Callable[..., Any]) -> None:
        def init(self: Any, base: str) -> None: ...

        make(__init__=init, refresh_every=5)
        with pytest.raises(ConfigurationError, match="cannot be made without arguments"):
            all_plans()
        make(__init__=init)
        assert all_plans() == []

    def test_jobs_that_need_a_model_have_none(
        self, make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for kind in (QuerySetGetJob, QuerySetFilterJob):
            registry.register(kind.registered_name, kind)
        make(refresh_every=5)
        assert [plan.job for plan in all_plans()] == [NAME]

    def test_an_unknown_job(self) -> None:
        with pytest.raises(UnknownJob):
            plan_of("shop.jobs.Gone")


class TestTick:
    def test_it_asks_for_what_is_not_there_or_old(self, make: Callable[..., Any]) -> None:
        job = make(refresh_every=300, refresh_calls=[("EUR",), ("USD",), ("SEK",)])
        shelf = shelf_of(job)
        with freeze() as clock:
            job().set("old", "EUR")
            clock.advance(200)
            job().set("new", "USD")
            assert tick(NAME).as_dict() == {"asked": 2, "fresh": 1, "left": 0}
            publisher.drain(5)
            assert sorted(calls_in(shelf)) == [("EUR",), ("SEK",)]
            shelf.run_all()
            assert job().peek("EUR") == "EUR fetched"
            # The same tick twice, as from two beats: nothing more.
            assert tick(NAME).as_dict() == {"asked": 0, "fresh": 3, "left": 0}

    def test_calls_travel_together(self, make: Callable[..., Any]) -> None:
        many = [(f"C{n}",) for n in range(150)]
        job = make(
            refresh_every=300,
            refresh_calls=many,
            fetch_many=lambda self, calls: [call.args[0] for call in calls],
        )
        assert tick(NAME).asked == 150
        publisher.drain(5)
        assert len(shelf_of(job).messages) <= 4
        assert sorted(calls_in(shelf_of(job))) == sorted(many)

    def test_parts_are_the_whole_once(self, make: Callable[..., Any]) -> None:
        many = [(f"C{n}",) for n in range(60)]
        job = make(refresh_every=300, refresh_calls=many)
        asked = [tick(NAME, part, 3).asked for part in range(3)]
        assert sum(asked) == 60
        assert min(asked) > 5
        publisher.drain(5)
        assert sorted(calls_in(shelf_of(job))) == sorted(many)

    @pytest.mark.parametrize(("calls", "parts"), [(0, 1), (100, 1), (101, 2), (99_999, 10)])
    def test_how_many_parts(self, calls: int, parts: int) -> None:
        assert parts_of(calls) == parts

    def test_a_large_tick_is_spread(
        self, make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, settings: Any
    ) -> None:
        settings.ASYNC_CACHE = {**settings.ASYNC_CACHE, "SCHEDULES": {"QUEUE": "slow"}}
        make(refresh_every=300, refresh_calls=[(f"C{n}",) for n in range(250)])
        sent: list[Any] = []
        monkeypatch.setattr(run_tick, "apply_async", lambda args, **kw: sent.append((args, kw)))
        assert run_tick(NAME)["asked"] < 150
        assert sent == [
            ((NAME, None, 300, 1, 3), {"countdown": 10, "expires": 310, "queue": "slow"}),
            ((NAME, None, 300, 2, 3), {"countdown": 20, "expires": 320, "queue": "slow"}),
        ]

    def test_calls_of_the_message_stand_in_for_the_jobs(self, make: Callable[..., Any]) -> None:
        job = make(refresh_every=300, refresh_calls=[("EUR",)])
        assert run_tick(NAME, [["USD"], {"base": "SEK"}])["asked"] == 2
        publisher.drain(5)
        assert sorted(calls_in(shelf_of(job))) == [("SEK",), ("USD",)]
        with pytest.raises(ConfigurationError, match="Write a list"):
            run_tick(NAME, "USD")
        with pytest.raises(ConfigurationError, match="does not fit fetch"):
            run_tick(NAME, [["USD", "SEK"]])

    @pytest.mark.django_db
    def test_calls_that_json_carries_as_objects(
        self, make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wanted = [[UUID(int=1)], [Decimal("1.50")]]
        job = make(refresh_every=300, refresh_calls=[("EUR",)])
        entry = {"task": "async_cache.tick", "args": (NAME,), "kwargs": {"calls": wanted}}
        monkeypatch.setitem(current_app.conf, "beat_schedule", {"own": entry})
        for calls, told in ((wanted, {"asked": 2}), ([[UUID(int=2)]], {"dropped": 1})):
            args, kwargs = kombu_json.loads(kombu_json.dumps(((NAME,), {"calls": calls})))
            assert run_tick.apply(args, kwargs).get().items() >= told.items()
        publisher.drain(5)
        assert len(calls_in(shelf_of(job))) == 2

    def test_calls_yielded_under_a_context_are_refreshed_under_it(
        self, make: Callable[..., Any]
    ) -> None:
        def each_language(self: Any) -> Iterator[Any]:
            for language in ("en", "fr"):
                with translation.override(language):
                    yield ("EUR",)

        def fetch(self: Any, base: str) -> str:
            return f"{base} in {translation.get_language()}"

        job = make(refresh_every=300, refresh_calls=each_language, vary=("language",), fetch=fetch)
        assert run_tick(NAME)["asked"] == 2
        publisher.drain(5)
        shelf_of(job).run_all()
        for language in ("en", "fr"):
            with translation.override(language):
                assert job().peek("EUR") == f"EUR in {language}"

    @pytest.mark.parametrize(
        ("fresh_for", "old", "due"),
        [
            (None, 0, True),  # stale, or not there
            (1000, 10, False),  # refreshed a moment ago
            (1000, 200, True),  # the tick has come
            (290, 10, True),  # would turn stale before the next
            (331, 10, True),  # or while the next is spread
            (335, 10, False),
        ],
    )
    def test_when_a_call_is_due(self, fresh_for: float | None, old: float, due: bool) -> None:
        assert due is is_due(fresh_for=fresh_for, old=old, fetch_seconds=0.5, period=300, spread=30)

    def test_nothing_is_asked_for_where_caching_is_off(
        self, make: Callable[..., Any], settings: Any
    ) -> None:
        job = make(refresh_every=300, refresh_calls=[("EUR",)])
        settings.ASYNC_CACHE = {**settings.ASYNC_CACHE, "ENABLED": False}
        assert run_tick(NAME) == {"asked": 0, "fresh": 0, "left": 0}
        publisher.drain(5)
        assert not shelf_of(job).messages

    def test_a_job_of_a_model_and_a_cached_function(self, make: Callable[..., Any]) -> None:
        class Users(QuerySetGetJob[Any]):
            model = get_user_model()
            refresh_every = 5
            refresh_calls = ({"username": "bob"}, {"pk": 1})

        cached(refresh_every=7)(function_without_arguments)
        told = {plan.job: list(plan.calls()) for plan in all_plans()}
        assert sorted(told.values(), key=len) == [
            [((), {})],
            [((), {"username": "bob"}), ((), {"pk": 1})],
        ]
        # A tick finds them by these names.
        assert sorted(run_tick(name)["asked"] for name in told) == [1, 2]
        publisher.drain(5)

    def test_a_job_that_lost_its_schedule(self, make: Callable[..., Any]) -> None:
        make()
        with pytest.raises(ConfigurationError, match="no schedule any more"):
            run_tick(NAME)


class TestStatic:
    def test_entries(self, make: Callable[..., Any], settings: Any) -> None:
        make(refresh_every=300, refresh_calls=[("EUR",)])
        make("Nightly", refresh_schedule=crontab(hour=3, minute=0), fetch=lambda self: 1)
        settings.ASYNC_CACHE = {"SCHEDULES": {"QUEUE": "slow"}}
        entries = beat_schedule()
        assert sorted(entries) == [f"async_cache: {__name__}.Nightly", f"async_cache: {NAME}"]
        entry = entries[f"async_cache: {NAME}"]
        assert (entry["task"], entry["args"]) == ("async_cache.tick", (NAME,))
        assert entry["options"] == {"expires": 300.0, "queue": "slow"}

    def test_the_module_says_the_same(self, make: Callable[..., Any], tmp_path: Path) -> None:
        make(refresh_every=300, refresh_calls=[("EUR",)])
        make("Nightly", refresh_schedule="30 3 * * mon", fetch=lambda self: 1)
        path = tmp_path / "beat.py"
        assert "would be written, 2 entries" in schedule(
            "--write", "static", "--output", str(path), "--dry-run"
        )
        assert not path.exists()
        assert "written, 2 entries" in schedule("--write", "static", "--output", str(path))
        assert "unchanged" in schedule("--write", "static", "--output", str(path))
        written = runpy.run_path(str(path))["BEAT_SCHEDULE"]
        entries = beat_schedule()
        assert written.keys() == entries.keys()
        for name, entry in entries.items():
            assert written[name]["args"] == entry["args"]
            assert written[name]["options"] == entry["options"]
        assert written[f"async_cache: {__name__}.Nightly"]["schedule"] == crontab(
            minute="30", hour="3", day_of_week="mon"
        )
        assert schedule("--write", "static") == path.read_text().strip()

    def test_a_crontab_of_sets(self, make: Callable[..., Any], tmp_path: Path) -> None:
        declared = crontab(minute=[30, 0], hour=[4, 3], day_of_week="mon,tue")
        make(refresh_schedule=declared, fetch=lambda self: 1)
        assert all_plans()[0].described == "0,30 3,4 * * mon,tue"
        path = tmp_path / "beat.py"
        schedule("--write", "static", "--output", str(path))
        written = runpy.run_path(str(path))["BEAT_SCHEDULE"]
        assert written[f"async_cache: {NAME}"]["schedule"] == crontab(
            minute="0,30", hour="3,4", day_of_week="mon,tue"
        )

    def test_it_is_shown(self, make: Callable[..., Any]) -> None:
        assert "No job has a schedule" in schedule()
        make(refresh_every=300, refresh_calls=[("EUR",), ("USD",)])
        assert schedule() == f"{NAME}  every 300 s  2 calls"

    def test_output_without_static(self) -> None:
        with pytest.raises(CommandError, match="--output goes with"):
            schedule("--output", "x")


@pytest.mark.parametrize("name", ["PeriodicTask", "CrontabSchedule"])
def test_what_is_missing_is_said(settings: Any, name: str) -> None:
    left = [one for one in settings.INSTALLED_APPS if "beat" not in one and "database" not in one]
    settings.INSTALLED_APPS = left
    with pytest.raises(ConfigurationError, match=r"django-async-cache\[schedules\]") as caught:
        getattr(models, name)
    assert '"django_celery_beat", "async_cache.schedules"' in str(caught.value)
    with pytest.raises((ConfigurationError, CommandError), match="INSTALLED_APPS"):
        schedule("--write", "database")
    assert not hasattr(models, "Other")
