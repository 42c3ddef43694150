"""A real Celery beat and a real worker keep a value fresh; a reader never meets a stale one."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from async_cache.schedules.plans import make_plan
from async_cache.schedules.static import entry_name
from async_cache.schedules.tasks import TASK_NAME
from tests.schedules.jobs import Beaten
from tests.servers import Process
from tests.workers import ROOT, WorkerProcess

pytestmark = [pytest.mark.integration, pytest.mark.django_db(transaction=True)]

PATIENCE = 60.0


def test_a_value_is_kept_fresh_over_several_periods(
    settings: Any,
    redis_caches: Any,
    celery_worker_process: Callable[..., WorkerProcess],
    tmp_path: Path,
) -> None:
    settings.ASYNC_CACHE = {"DISPATCHER": "celery", "CACHE": "redis"}
    name = entry_name(make_plan(Beaten(), 1.0, None))
    given: dict[str, Any] = {
        "BEATEN_EVERY": 1.0,
        "CELERY_BEAT_SCHEDULE": {
            name: {"task": TASK_NAME, "schedule": 1.0, "args": [Beaten().job_name]}
        },
        "CELERY_BEAT_MAX_LOOP_INTERVAL": 1,
    }
    worker = celery_worker_process(broker="redis", overrides=given)
    beat = Process(
        [
            *(sys.executable, "-m", "celery", "-A", "tests.celery_app", "beat"),
            *("--schedule", str(tmp_path / "schedule"), "--pidfile", "", "--loglevel", "INFO"),
        ],
        tmp_path / "log",
        grace=5,
        env=worker._environment(given),
        cwd=ROOT,
    )
    job, never = Beaten(), threading.Event()
    try:
        end = time.monotonic() + PATIENCE
        # Nobody has read it: the clock alone has it fetched, both of the calls.
        while "MISSING" in repr([job.peek("EUR"), job.peek("USD")]):
            assert time.monotonic() < end, beat.output() + worker.log
            never.wait(0.05)
        values: set[float] = set()
        while len(values) < 4:
            assert time.monotonic() < end, beat.output() + worker.log
            told = job.explain("EUR")
            assert told.status.value == "fresh", (told, beat.output(), worker.log)
            values.add(job.get("EUR"))
            never.wait(0.05)
    finally:
        beat.stop()
