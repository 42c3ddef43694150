"""The models that djcelery's users know: what they answer, refuse and tell beat."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
from celery import current_app, schedules
from celery.app.task import Task
from django.apps import apps
from django.core import serializers
from django.core.exceptions import ValidationError
from django.db import connection
from django.db import models as django_models
from django_celery_beat import models as beat

from async_cache.jobs import registry
from async_cache.schedules.models import (
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
    PeriodicTaskMeta,
    PeriodicTasks,
)
from async_cache.schedules.tasks import TASK_NAME
from async_cache.schedules.ticking import period
from tests.schedules.support import build
from tests.workers import ROOT

pytestmark = pytest.mark.django_db

NAME = f"{__name__}.Rates"


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setattr(registry, "_jobs", {})
    return partial(build, __name__)


@pytest.fixture
def every() -> Any:
    return IntervalSchedule.objects.create(every=5, period=IntervalSchedule.MINUTES)


@pytest.fixture
def hourly() -> Any:
    return CrontabSchedule.objects.create(minute="0")


@pytest.fixture
def told() -> Callable[[], bool]:
    """Return what says whether beat has been told of a change since it was last asked."""
    seen = [PeriodicTasks.last_change()]

    def changed() -> bool:
        seen.append(PeriodicTasks.last_change())
        return bool(seen[-1] != seen[-2])

    return changed


class TestSchedules:
    def test_an_interval(self, every: Any) -> None:
        assert every.schedule == schedules.schedule(timedelta(minutes=5))
        assert IntervalSchedule.from_schedule(every.schedule).every == 300
        assert IntervalSchedule.from_schedule(every.schedule, "minutes") == every
        assert every.natural_key() == (5, "minutes")
        assert IntervalSchedule.objects.get_by_natural_key(5, "minutes") == every

    @pytest.mark.parametrize(
        ("seconds", "key"), [(300, (300, "seconds")), (0.5, (500_000, "microseconds"))]
    )
    def test_an_interval_of_celery(self, seconds: float, key: Any) -> None:
        found = IntervalSchedule.from_schedule(schedules.schedule(timedelta(seconds=seconds)))
        assert (found.pk, found.natural_key()) == (None, key)
        found.save()
        assert IntervalSchedule.from_schedule(found.schedule) == found
        assert found.schedule.seconds == seconds

    @pytest.mark.parametrize(
        "given", [{"every": 0}, {"every": -1}, {"every": 1.5}, {"period": "x"}]
    )
    def test_an_interval_that_cannot_be(self, given: Any) -> None:
        row = IntervalSchedule(**{"every": 5, "period": "seconds", **given})
        with pytest.raises(ValidationError):
            row.save()
        with pytest.raises(ValidationError):
            IntervalSchedule.objects.bulk_create([row])
        assert not IntervalSchedule.objects.exists()

    def test_no_time_at_all(self) -> None:
        with pytest.raises(ValidationError, match="greater than or equal to 1"):
            IntervalSchedule.from_schedule(schedules.schedule(timedelta(0)))

    def test_a_crontab(self) -> None:
        given = schedules.crontab(minute=[30, 0], hour=3)
        made = CrontabSchedule.from_schedule(given)
        assert made.pk is None
        made.save()
        assert CrontabSchedule.from_schedule(given) == made
        assert CrontabSchedule.from_schedule(made.schedule) == made
        assert 1 <= period(made.schedule) <= 86400
        assert (made.schedule.minute, made.schedule.hour) == ({0, 30}, {3})
        assert made.natural_key() == ("0,30", "3", "*", "*", "*", "UTC")
        assert CrontabSchedule.objects.get_by_natural_key(*made.natural_key()) == made

    @pytest.mark.parametrize("given", [{"minute": "61"}, {"hour": "x"}, {"day_of_week": "8"}])
    def test_a_crontab_that_cannot_be(self, given: Any) -> None:
        with pytest.raises(ValidationError):
            CrontabSchedule.objects.create(**given)
        assert not CrontabSchedule.objects.exists()

    def test_nothing_of_that_name(self) -> None:
        with pytest.raises(PeriodicTask.DoesNotExist, match="has the key"):
            PeriodicTask.objects.get_by_natural_key("x")


class TestRefused:
    """Nothing is written of what cannot run."""

    @pytest.mark.parametrize("name", ["", "x" * 201])
    def test_a_name_that_cannot_be(self, every: Any, name: str) -> None:
        row = PeriodicTask(name=name, task="shop.add", interval=every)
        for write in (row.save, partial(PeriodicTask.objects.bulk_create, [row])):
            with pytest.raises(ValidationError, match="name"):
                write()
        assert not PeriodicTask.objects.exists()

    def refuse(self, words: str, **given: Any) -> None:
        for model in (PeriodicTask, PeriodicTaskMeta):
            with pytest.raises(ValidationError, match=words):
                model.objects.create(**{"name": "row", "task": TASK_NAME, **given})
        assert not beat.PeriodicTask.objects.exists()

    def test_no_schedule(self) -> None:
        self.refuse("there is no schedule")

    def test_two_schedules(self, every: Any, hourly: Any) -> None:
        self.refuse("2 schedules, interval and crontab", interval=every, crontab=hourly)

    def test_a_schedule_that_cannot_be(self) -> None:
        self.refuse("greater than", interval=beat.IntervalSchedule(every=0, period="days"))
        self.refuse("not in 0-59", crontab=beat.CrontabSchedule(minute="61"))

    @pytest.mark.parametrize(
        ("args", "kwargs", "words"),
        [
            ("[", "{}", "is not JSON"),
            ("{}", "{}", "is not a JSON list"),
            ("[]", "[]", "is not a JSON object"),
            ("[]", "{}", "missing a required argument"),
            ("[1]", "{}", "name of a job"),
            ('["shop.jobs.Gone"]', "{}", "No job is named"),
            (f'["{NAME}"]', '{"call": []}', "unexpected keyword"),
            (f'["{NAME}"]', '{"calls": "EUR"}', "Write a list"),
            (f'["{NAME}"]', '{"calls": [["EUR", "USD"]]}', "does not fit fetch"),
            (f'["{NAME}"]', '{"calls": [{"bas": "EUR"}]}', "does not fit fetch"),
            (f'["{NAME}"]', "{}", "name the calls"),
        ],
    )
    def test_a_tick_that_could_not_run(
        self, make: Callable[..., Any], every: Any, args: str, kwargs: str, words: str
    ) -> None:
        make()
        self.refuse(words, interval=every, args=args, kwargs=kwargs)

    def test_headers_that_are_not_json(self, every: Any) -> None:
        self.refuse("is not JSON", interval=every, task="x", headers="{")
        self.refuse("is not a JSON object", interval=every, task="x", headers="[1]")

    def test_in_bulk(self, every: Any) -> None:
        good = PeriodicTask(name="a", task="x", interval=every)
        with pytest.raises(ValidationError):
            PeriodicTask.objects.bulk_create([good, PeriodicTask(name="b", task="x")])
        assert not beat.PeriodicTask.objects.exists()

    def test_who_lost_the_job_can_still_be_disabled(
        self, make: Callable[..., Any], every: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make(refresh_calls=[("EUR",)])
        row = PeriodicTask.objects.create(
            name="row", task=TASK_NAME, interval=every, args=f'["{NAME}"]'
        )
        monkeypatch.setattr(registry, "_jobs", {})
        with pytest.raises(ValidationError, match="No job is named"):
            row.save()
        beat.IntervalSchedule.objects.update(every=0)
        row.interval.refresh_from_db()
        row.enabled = False
        row.save()
        assert not beat.PeriodicTask.objects.get().enabled


class TestTold:
    """Beat looks at `last_change`, whichever way a row was changed."""

    def test_by_saving_and_deleting(self, every: Any, told: Callable[[], bool]) -> None:
        for model in (PeriodicTask, PeriodicTaskMeta):
            row = model.objects.create(name="row", task="x", interval=every)
            assert told()
            row.queue = "slow"
            row.save()
            assert told()
            model.objects.filter(name="row").update(enabled=False)
            assert told()
            model.objects.bulk_update([row], ["queue"])
            assert told()
            model.objects.filter(name="row").delete()
            assert told()
            model.objects.bulk_create([model(name="row", task="x", interval=every)])
            assert told()
            model.objects.get(name="row").delete()
            assert told()
        assert not told()

    def test_by_a_schedule(self, told: Callable[[], bool]) -> None:
        for row in (IntervalSchedule(every=1, period="days"), CrontabSchedule(minute="1")):
            row.save()
            assert told()
            row.delete()
            assert told()

    def test_by_hand(self, told: Callable[[], bool], every: Any) -> None:
        PeriodicTasks.changed()
        assert told()
        row = PeriodicTask(interval=every)
        row.no_changes = True  # beat notes a run
        PeriodicTasks.changed(row)
        assert not told()


class TestMeta:
    @pytest.fixture
    def row(self, every: Any) -> Any:
        return PeriodicTaskMeta.objects.create(
            name="row", task=TASK_NAME, interval=every, args=ARGS
        )

    @pytest.fixture(autouse=True)
    def _job(self, make: Callable[..., Any]) -> None:
        make(refresh_calls=[("EUR",)])

    def stored(self) -> Any:
        return beat.PeriodicTask.objects.values_list("task", flat=True).get()

    def test_the_task_is_that_of_the_app(self, row: Any) -> None:
        for found in (
            row,
            PeriodicTaskMeta.objects.get(),
            PeriodicTaskMeta.objects.defer("task").get(),
        ):
            assert found.task == current_app.tasks[TASK_NAME]
            assert isinstance(found.task, Task)
            assert found.task.name == TASK_NAME
        assert (row.name, str(row)) == ("row", "row: every 5 minutes")

    def test_whichever_way_it_is_saved_the_name_is_written(self, row: Any, every: Any) -> None:
        row.save()
        assert self.stored() == TASK_NAME
        row.task = current_app.tasks["celery.chord"]
        row.save(update_fields=["task"])
        assert self.stored() == "celery.chord"
        row.task = row.task
        PeriodicTaskMeta.objects.bulk_update([row], ["task"])
        assert self.stored() == "celery.chord"
        assert PeriodicTaskMeta.objects.filter(task=row.task).exists()
        PeriodicTaskMeta.objects.update(task=current_app.tasks[TASK_NAME].name)
        row.refresh_from_db()
        row.full_clean()
        assert row.task.name == TASK_NAME
        [told] = json.loads(serializers.serialize("json", [row]))
        assert told["fields"]["task"] == TASK_NAME
        PeriodicTaskMeta.objects.all().delete()
        PeriodicTaskMeta.objects.bulk_create([row])
        assert self.stored() == TASK_NAME

    def test_a_task_that_is_not_here(self, every: Any) -> None:
        row = PeriodicTaskMeta.objects.create(name="row", task="shop.gone", interval=every)
        row.refresh_from_db()
        row.save()
        assert self.stored() == str(row.task) == "shop.gone"
        with pytest.raises(LookupError, match=r"no task 'shop\.gone'"):
            row.task.delay()
        with pytest.raises(LookupError, match=r"no task 'shop\.gone'"):
            row.delay()
        assert beat.PeriodicTask.objects.get().total_run_count == 0


ARGS = json.dumps([NAME])


class TestDelay:
    @pytest.mark.parametrize("model", [PeriodicTask, PeriodicTaskMeta])
    def test_it_runs_now_and_counts(
        self, model: Any, every: Any, monkeypatch: pytest.MonkeyPatch, told: Callable[[], bool]
    ) -> None:
        sent: list[Any] = []
        task = current_app.tasks["celery.chunks"]
        monkeypatch.setattr(type(task), "apply_async", lambda *a, **k: sent.append((a[1:], k)))
        row = model.objects.create(
            name="row",
            task="celery.chunks",
            interval=every,
            args="[1]",
            kwargs='{"a": 2}',
            queue="slow",
            headers='{"h": 1}',
            expire_seconds=30,
        )
        # Another process has counted since the row was read.
        beat.PeriodicTask.objects.update(total_run_count=django_models.F("total_run_count") + 5)
        told()
        row.delay()
        headers = {"h": 1, "periodic_task_name": "row"}
        assert sent == [(([1], {"a": 2}), {"queue": "slow", "expires": 30, "headers": headers})]
        stored = beat.PeriodicTask.objects.get()
        assert row.total_run_count == stored.total_run_count == 6
        assert row.last_run_at == stored.last_run_at is not None
        assert told()


def test_the_app_alone_says_what_it_needs() -> None:
    program = (
        "from django.conf import settings; import django\n"
        "settings.configure(INSTALLED_APPS=['async_cache', 'async_cache.schedules.database'])\n"
        "django.setup()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "ConfigurationError" in done.stderr
    assert "django-async-cache[schedules]" in done.stderr


def test_beat_starts_from_a_first_change() -> None:
    """With no change noted at its start, beat would not see the first one that comes."""
    migration = import_module("async_cache.schedules.database.migrations.0002_first_change")
    beat.PeriodicTasks.objects.all().delete()
    editor = SimpleNamespace(connection=connection)
    migration.note_change(apps, editor)
    first = PeriodicTasks.last_change()
    migration.note_change(apps, editor)
    assert first is not None
    assert PeriodicTasks.last_change() == first
