"""A real Celery beat with django-celery-beat's scheduler, and a real worker, see what changes."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from async_cache.entry import MISSING
from async_cache.schedules.models import IntervalSchedule, PeriodicTask
from async_cache.schedules.tasks import TASK_NAME
from tests.schedules.jobs import Beaten
from tests.servers import Process
from tests.workers import ROOT, WorkerProcess

pytestmark = pytest.mark.django_db(transaction=True)

PATIENCE = 60.0


@pytest.fixture
def row() -> Any:
    """Return a tick of a job without a schedule of its own, in an hour."""
    hour = IntervalSchedule.objects.create(every=1, period="hours")
    return PeriodicTask.objects.create(
        name="by hand",
        task=TASK_NAME,
        interval=hour,
        args=json.dumps([Beaten().job_name]),
        kwargs='{"calls": [["EUR"]]}',
    )


def form_of(row: Any, **changes: Any) -> dict[str, Any]:
    """Return what the admin's form of a row sends."""
    given = {
        "name": row.name,
        "task": row.task,
        "enabled": "on",
        "interval": row.interval_id,
        "args": row.args,
        "kwargs": row.kwargs,
        "headers": "{}",
        **changes,
    }
    return {name: value for name, value in given.items() if value is not None}


def change(client: Client, row: Any, **changes: Any) -> Any:
    place = reverse("admin:django_celery_beat_periodictask_change", args=[row.pk])
    return client.post(place, form_of(row, **changes))


@pytest.mark.integration
def test_a_change_takes_effect_without_a_restart(
    settings: Any,
    redis_caches: Any,
    celery_worker_process: Callable[..., WorkerProcess],
    admin_client: Client,
    row: Any,
    tmp_path: Path,
) -> None:
    settings.ASYNC_CACHE = {"DISPATCHER": "celery", "CACHE": "redis"}
    second = IntervalSchedule.objects.create(every=1, period="seconds")
    worker = celery_worker_process(broker="redis")
    beat = Process(
        [
            *(sys.executable, "-m", "celery", "-A", "tests.celery_app", "beat"),
            *("--scheduler", "django", "--max-interval", "1"),
            *("--pidfile", "", "--loglevel", "DEBUG"),
        ],
        tmp_path / "log",
        grace=5,
        env=worker._environment({}),
        cwd=ROOT,
    )
    job, never = Beaten(), threading.Event()

    def await_fresh(base: str, number: int) -> None:
        """Wait until so many values, one after the other, were there; only the clock asks."""
        end = time.monotonic() + PATIENCE
        values: set[Any] = set()
        while len(values) < number:
            assert time.monotonic() < end, beat.output() + worker.log
            values |= {job.peek(base)} - {MISSING}
            never.wait(0.05)

    try:
        beat.wait_until(lambda: "Current schedule" in beat.output(), PATIENCE, "beat")
        assert job.peek("EUR") is MISSING
        # In the admin of django-celery-beat: every second.
        answer = change(admin_client, row, interval=second.pk)
        assert answer.status_code == 302, answer.content.decode()
        await_fresh("EUR", 3)
        assert job.peek("USD") is MISSING
        # Through the proxy: another call.
        row.refresh_from_db()
        row.kwargs = '{"calls": [{"base": "USD"}]}'
        row.save()
        await_fresh("USD", 2)
    finally:
        beat.stop()
    row.refresh_from_db()
    assert row.total_run_count >= 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"args": '["shop.jobs.Gone"]'}, "No job is named"),
        ({"kwargs": '{"calls": [["EUR", "USD"]]}'}, "does not fit fetch"),
        ({"interval": None}, "must be set"),
    ],
)
def test_the_admin_refuses_what_could_not_run(
    admin_client: Client, row: Any, changes: Any, words: str
) -> None:
    answer = change(admin_client, row, **changes)
    assert (answer.status_code, words in answer.content.decode()) == (200, True)
    before = (row.args, row.kwargs, row.interval_id)
    row.refresh_from_db()
    assert (row.args, row.kwargs, row.interval_id) == before
