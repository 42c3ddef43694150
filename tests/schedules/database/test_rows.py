"""`schedule --write database`: rows say what the jobs declare, and those made by hand stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from celery.schedules import crontab
from django.core.management import CommandError
from django.db import connections
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django_celery_beat import models as beat

from async_cache.jobs import registry
from async_cache.schedules.database.rows import ORPHANED, find_schedule
from async_cache.schedules.models import IntervalSchedule, PeriodicTask, PeriodicTasks
from async_cache.schedules.tasks import TASK_NAME
from tests.conftest import POSTGRES
from tests.schedules.support import build, schedule

NAME = f"{__name__}.Rates"
ROW = f"async_cache: {NAME}"
BEAT_APPS = {"django_celery_beat", "async_cache_schedules_database"}

pytestmark = pytest.mark.django_db(databases=["default", POSTGRES])


class OnPostgres:
    """A router that puts the rows of beat on PostgreSQL."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        return POSTGRES if model._meta.app_label in BEAT_APPS else None

    db_for_write = db_for_read


@pytest.fixture(params=["default", POSTGRES], autouse=True)
def using(request: pytest.FixtureRequest) -> Iterator[str]:
    routers = ["tests.schedules.database.test_rows.OnPostgres"] * (request.param == POSTGRES)
    with override_settings(DATABASE_ROUTERS=routers):
        yield request.param


@pytest.fixture(autouse=True)
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setattr(registry, "_jobs", {})
    return partial(build, __name__)


def write(*args: str) -> list[str]:
    return schedule("--write", "database", *args).splitlines()


def rows() -> dict[str, Any]:
    return {row.name: row for row in beat.PeriodicTask.objects.select_related("interval")}


def test_the_rows_say_what_the_jobs_declare(
    make: Callable[..., Any], settings: Any, using: str
) -> None:
    settings.ASYNC_CACHE = {"SCHEDULES": {"QUEUE": "slow"}}
    make(refresh_every=300, refresh_calls=[("EUR",)])
    make("Nightly", refresh_schedule=crontab(minute=0, hour=[3, 4]), fetch=lambda self: 1)
    made = [f"{ROW}  every 300 s", f"async_cache: {__name__}.Nightly  0 3,4 * * *"]
    assert sorted(write("--dry-run")) == sorted(f"would be created: {one}" for one in made)
    assert not rows()
    assert not beat.IntervalSchedule.objects.exists()
    assert sorted(write()) == sorted(f"created: {one}" for one in made)
    row = rows()[ROW]
    assert row._state.db == using
    assert (row.task, row.args, row.kwargs) == (TASK_NAME, f'["{NAME}"]', "{}")
    assert (row.queue, row.expire_seconds, row.enabled) == ("slow", 300, True)
    assert row.schedule.seconds == 300
    assert rows()[f"async_cache: {__name__}.Nightly"].crontab.hour == "3,4"


def test_again_changes_nothing_and_says_so(make: Callable[..., Any], using: str) -> None:
    make(refresh_every=300, refresh_calls=[("EUR",)])
    make("Same", refresh_every=300, refresh_calls=[("EUR",)])
    make("Half", refresh_every=0.5, refresh_calls=[("EUR",)])
    make("Nightly", refresh_schedule=crontab(minute=0, hour=[3, 4]), fetch=lambda self: 1)
    assert len(write()) == 4
    assert beat.IntervalSchedule.objects.count() == 2
    before = PeriodicTasks.last_change()
    with CaptureQueriesContext(connections[using]) as seen:
        assert write() == ["unchanged, 4 entries"]
    wrote = [one["sql"] for one in seen if one["sql"].startswith(("INSERT", "UPDATE", "DELETE"))]
    assert not wrote
    assert PeriodicTasks.last_change() == before


def test_what_the_jobs_declare_anew_is_written(make: Callable[..., Any]) -> None:
    make(refresh_every=300, refresh_calls=[("EUR",)])
    write()
    make(refresh_schedule="*/5 * * * *", refresh_calls=[("EUR",)])
    assert write("--dry-run") == [f"would be updated: {ROW}  */5 * * * *"]
    assert rows()[ROW].crontab is None
    assert write() == [f"updated: {ROW}  */5 * * * *"]
    assert rows()[ROW].interval is None
    assert rows()[ROW].crontab.minute == "*/5"


def test_whoever_disables_a_row_is_heard(make: Callable[..., Any]) -> None:
    make(refresh_every=300, refresh_calls=[("EUR",)])
    write()
    beat.PeriodicTask.objects.update(enabled=False)
    assert write() == ["unchanged, 1 entries"]
    assert not rows()[ROW].enabled


def test_a_job_without_a_schedule_is_disabled_until_it_has_one(make: Callable[..., Any]) -> None:
    make(refresh_every=300, refresh_calls=[("EUR",)])
    write()
    make()
    assert write("--dry-run") == [f"would be disabled: {ROW}  no schedule any more"]
    assert rows()[ROW].enabled
    assert write() == [f"disabled: {ROW}  no schedule any more"]
    assert (rows()[ROW].enabled, rows()[ROW].description) == (False, ORPHANED)
    assert write() == ["unchanged, 0 entries"]
    make(refresh_every=300, refresh_calls=[("EUR",)])
    assert write() == [f"updated: {ROW}  every 300 s"]
    assert rows()[ROW].enabled


def test_rows_made_by_hand_are_left_alone(make: Callable[..., Any]) -> None:
    every = IntervalSchedule.objects.create(every=5, period="minutes")
    make(refresh_calls=[("EUR",)])
    given = {"task": TASK_NAME, "interval": every, "args": f'["{NAME}"]'}
    PeriodicTask.objects.create(name="by hand", **given)
    PeriodicTask.objects.create(name="async_cache: by hand too", **given)
    assert write() == ["unchanged, 0 entries"]
    assert all(row.enabled for row in rows().values())
    PeriodicTask.objects.create(name=ROW, **given)
    make(refresh_every=300, refresh_calls=[("EUR",)])
    with pytest.raises(CommandError, match="has not written"):
        write()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"refresh_every": 5, "refresh_calls": [("EUR", "USD")]}, "does not fit fetch"),
        ({"refresh_schedule": "61 * * * *"}, "no crontab"),
        ({"refresh_every": 1e-7, "refresh_calls": [("EUR",)]}, "greater than or equal to 1"),
    ],
)
def test_one_that_cannot_be_keeps_all_from_being_written(
    make: Callable[..., Any], given: Any, words: str
) -> None:
    make("Aardvark", refresh_every=7, refresh_calls=[("EUR",)])
    make(**given)
    with pytest.raises(CommandError, match=words):
        write()
    assert not rows()
    assert not beat.IntervalSchedule.objects.exists()


def test_a_failure_in_its_middle_leaves_nothing(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    make("Aardvark", refresh_every=7, refresh_calls=[("EUR",)])
    make(refresh_every=5, refresh_calls=[("EUR",)])
    save, seen = PeriodicTask.save, []

    def fail_the_second(self: Any, *args: Any, **kwargs: Any) -> None:
        seen.append(self.name)
        if len(seen) == 2:
            raise RuntimeError("the database is gone")
        save(self, *args, **kwargs)

    monkeypatch.setattr(PeriodicTask, "save", fail_the_second)
    with pytest.raises(RuntimeError, match="is gone"):
        write()
    assert len(seen) == 2
    assert not rows()


def test_two_who_write_at_once(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, using: str
) -> None:
    make(refresh_every=5, refresh_calls=[("EUR",)])
    every = IntervalSchedule.objects.create(every=5, period="seconds")
    beat.PeriodicTask.objects.create(name=ROW, task=TASK_NAME, interval=every)
    # The other's row came after this one had looked.
    monkeypatch.setattr(PeriodicTask.objects, "filter", lambda **given: PeriodicTask.objects.none())
    monkeypatch.setattr(beat.PeriodicTask, "validate_unique", lambda self: None)
    with pytest.raises(CommandError, match="Run this again"):
        write()


def test_a_tick_goes_by_the_schedule_of_its_row(make: Callable[..., Any]) -> None:
    make(refresh_every=300, refresh_calls=[("EUR",)])
    write()
    found = find_schedule(ROW)
    assert getattr(found, "seconds", None) == 300
    every = IntervalSchedule.objects.create(every=5, period="seconds")
    PeriodicTask.objects.filter(name=ROW).update(interval=every)
    assert getattr(find_schedule(ROW), "seconds", None) == 5
    assert find_schedule("another") is None
