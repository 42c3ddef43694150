"""Calls in a real worker: seen while they run, ended in time, never left as begun."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from async_cache.dispatchers import celery as dispatcher
from async_cache.results import TaskTimeout, async_task, count_group, fetch, get, get_layer, result
from async_cache.results.messages import CallMessage, seal_call
from async_cache.results.models import TaskResult
from async_cache.results.records import FAILURE, NO_RECORD, REVOKED, STARTED, SUCCESS, Record
from async_cache.results.utils import now
from async_cache.secret_keys import get_ring
from tests.celery_app import app
from tests.dispatchers.support import eventually
from tests.workers import WorkerProcess

pytestmark = [pytest.mark.integration, pytest.mark.django_db(transaction=True)]

HERE = "tests.results.worker_functions"
PATIENCE = 30.0
NEVER = 600.0


@pytest.fixture
def worker(
    request: pytest.FixtureRequest,
    redis_caches: str,
    celery_worker_process: Any,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> WorkerProcess:
    settings.ASYNC_CACHE = {
        "CACHE": "redis",
        "RESULTS": {"MAX_WAIT": PATIENCE, "TRACK_STARTED": True},
    }
    monkeypatch.setattr(dispatcher, "KILL_SECONDS", 1.0)
    # One process, so that what one call leaves there the next one meets.
    overrides = {"CELERY_WORKER_LOST_WAIT": 1.0, **getattr(request, "param", {})}
    started: WorkerProcess = celery_worker_process(concurrency=1, overrides=overrides)
    return started


def record_of(task_id: str, cached: bool) -> Record:
    found = get_layer(cached).get(task_id)
    assert found is not NO_RECORD
    return found


def started(task_id: str, cached: bool) -> Record:
    eventually(lambda: get_layer(cached).get(task_id), PATIENCE)
    return record_of(task_id, cached)


def test_a_running_call_is_seen_and_its_hook_changes_nothing(
    worker: WorkerProcess, tmp_path: Path
) -> None:
    for cached in (False, True):
        flag = tmp_path / f"flag{cached}"
        task_id = async_task(f"{HERE}.wait_for", str(flag), group="g", cached=cached)
        running = started(task_id, cached)
        assert (running.state, running.worker) == (STARTED, f"{worker.name}@localhost")
        assert (fetch(task_id, cached=cached), count_group("g", cached=cached)) == (None, 0)
        flag.touch()
        assert result(task_id, wait=-1, cached=cached) == "seen"
        ended = record_of(task_id, cached)
        assert (ended.state, ended.started) == (SUCCESS, running.started)
        times = [ended.created, ended.queued, ended.started, ended.finished]
        assert None not in times
        assert times == sorted(times, key=float)  # type: ignore[arg-type]
        assert count_group("g", cached=cached) == 1
    hooked = async_task("math.floor", 2.5, hook=f"{HERE}.failing_hook")
    worker.wait_for(rf"hook {HERE}.failing_hook of the task {hooked} raised LookupError")
    worker.wait_for(rf"Task async_cache.run\[{hooked}\] succeeded")
    assert result(hooked) == 2
    assert "a secret of the hook" not in worker.log
    quiet = async_task(f"{HERE}.wait_for", str(flag), save=False)
    last = async_task(f"{HERE}.wait_for", str(flag))
    assert result(last, wait=-1) == "seen"
    assert get_layer(False).get(quiet) is NO_RECORD, "a success that is not saved leaves nothing"


def test_a_call_that_takes_too_long_or_loses_its_process_fails(worker: WorkerProcess) -> None:
    def call(function: str, cached: bool, *args: Any, **options: Any) -> str:
        return async_task(f"{HERE}.{function}", *args, group="g", cached=cached, **options)

    late = {
        "sleep_in_python": call("sleep_in_python", False, NEVER, timeout=1),
        "sleep_in_a_loop": call("sleep_in_a_loop", True, NEVER, timeout=1),
        "was killed": call("hear_nothing", False, NEVER, timeout=1),
    }
    for said, task_id in late.items():
        with pytest.raises(TaskTimeout, match=r"timeout of 1 s") as caught:
            get(task_id, wait=-1, cached=said == "sleep_in_a_loop")
        assert said in str(caught.value)
    killed = call("be_killed", True)
    with pytest.raises(Exception, match="SIGKILL") as lost:
        get(killed, wait=-1, cached=True)
    assert type(lost.value).__name__ == "WorkerLostError"
    record = record_of(killed, True)
    assert (record.state, record.group) == (FAILURE, "g")
    assert record.started is not None
    revoked = call("sleep_in_python", True, NEVER)
    started(revoked, True)
    app.control.revoke(revoked, terminate=True)
    eventually(lambda: record_of(revoked, True).ready, PATIENCE)
    assert record_of(revoked, True).state == REVOKED
    failed = [count_group("g", failures=True, cached=cached) for cached in (False, True)]
    assert failed == [2, 3]
    # The worker goes on.
    assert get(async_task("math.floor", 2.5), wait=-1) == 2


AGAIN = {"CELERY_TASK_ACKS_LATE": True, "CELERY_TASK_REJECT_ON_WORKER_LOST": True}


@pytest.mark.parametrize("worker", [AGAIN], indirect=True)
def test_a_call_that_is_delivered_again_has_not_failed_meanwhile(
    worker: WorkerProcess, tmp_path: Path
) -> None:
    task_id = async_task(f"{HERE}.be_killed_once", str(tmp_path / "flag"), group="g")
    assert get(task_id, wait=-1) == "alive"
    assert (count_group("g"), count_group("g", failures=True)) == (1, 0)


def test_a_purge_runs_in_a_worker(worker: WorkerProcess) -> None:
    kept = async_task("math.floor", 2.5)
    old = async_task("math.floor", 2.5)
    assert (result(kept, wait=-1), result(old, wait=-1)) == (2, 2)
    TaskResult.objects.filter(task_id=old).update(date_done=now() - timedelta(days=2))
    app.send_task("async_cache.purge")
    eventually(lambda: get_layer(False).get(old) is NO_RECORD, PATIENCE)
    assert result(kept) == 2


def test_a_forged_call_imports_nothing_and_runs_nothing(worker: WorkerProcess) -> None:
    # Of the standard library, and imported by nobody.
    assert "this" not in sys.modules
    forged = seal_call(CallMessage("forged", "this.c"), get_ring()).replace("this", "that")
    assert result(async_task(f"{HERE}.watch_imports"), wait=-1) is None
    get(async_task(f"{HERE}.imports"), wait=-1)
    for text in ("1." + "0" * 32 + '.{"path": "this.c"}', forged):
        app.send_task("async_cache.run", args=(text,), task_id="forged")
    assert get(async_task(f"{HERE}.imports"), wait=-1) == []
    assert worker.log.count("A message for async_cache.results was dropped") == 1, "once a minute"
    assert not TaskResult.objects.filter(task_id="forged").exists()
    # The watch does see what a call imports.
    async_task("this.c")
    assert "this" in get(async_task(f"{HERE}.imports"), wait=-1)
