"""Real Celery workers: a stale read is answered at once, the worker refreshes, whatever happens."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from async_cache import guards, publisher
from async_cache.conf import get_settings
from tests.conftest import flush
from tests.dispatchers import jobs
from tests.dispatchers.support import eventually
from tests.lateness import Lateness
from tests.workers import WorkerProcess

pytestmark = [pytest.mark.integration, pytest.mark.django_db(transaction=True)]

StartWorker = Callable[..., WorkerProcess]
PATIENCE = 60.0


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    guards.forget()
    jobs.fetched.clear()
    yield
    publisher.drain(1.0)
    publisher._reset()
    guards.forget()


@pytest.fixture(params=["redis", "filesystem"])
def start_worker(
    request: pytest.FixtureRequest,
    settings: Any,
    celery_worker_process: StartWorker,
) -> StartWorker:
    """Return what starts a worker: over Redis, cache included, or without any server."""
    if request.param == "redis":
        flush(request.getfixturevalue("redis_caches"))
        alias = "redis"
    else:
        request.getfixturevalue("file_cache")
        alias = "file"
    settings.ASYNC_CACHE = {"DISPATCHER": "celery", "CACHE": alias}

    started: list[WorkerProcess] = []

    def start(**options: Any) -> WorkerProcess:
        # A second worker reads what the first has left: a Redis broker is emptied when named.
        again = started and request.param == "redis"
        broker = started[0].broker.url if again else request.param
        started.append(celery_worker_process(broker=broker, **options))
        return started[-1]

    return start


def refreshed(read: Callable[[], str], before: str) -> str:
    """Return the value once it is another than before."""
    found: str = eventually(lambda: (value := read()) != before and value, PATIENCE)
    return found


def test_a_stale_read_returns_at_once_and_the_worker_refreshes(start_worker: StartWorker) -> None:
    start_worker()
    job = jobs.Counting()
    first = job.get("ann")
    assert first.endswith(f" {os.getpid()}")
    assert job.get("ann") == first
    second = refreshed(lambda: str(job.peek("ann")), first)
    assert second.startswith("ann 1 "), "the first fetch of that process"
    assert not second.endswith(f" {os.getpid()}")


def test_a_failing_fetch_neither_loses_the_value_nor_the_worker(start_worker: StartWorker) -> None:
    worker = start_worker()
    job = jobs.Failing()
    job.set("kept", "ann")
    jobs.Failing().refresh_later("ann").wait(PATIENCE)
    handle = job.refresh_later("ann")
    worker.wait_for(rf"{handle.task_id}.*succeeded")
    eventually(lambda: job.explain("ann").last_error == "ZeroDivisionError", PATIENCE)
    assert job.peek("ann") == "ann 1"
    other = jobs.Counting()
    assert other.refresh_later("eve").wait(PATIENCE)
    assert "Traceback" not in worker.log
    assert "secret" not in worker.log


def test_a_batch_travels_in_one_message(start_worker: StartWorker) -> None:
    worker = start_worker()
    job = jobs.Batched()
    names = [f"name{number}" for number in range(30)]
    job.refresh_many([(name,) for name in names])
    eventually(lambda: all(job.peek(name) for name in names), PATIENCE)
    assert worker.log.count("Task async_cache.refresh[") - worker.log.count("succeeded") <= 1
    assert worker.log.count("received") == 1


def test_a_fetch_that_runs_too_long_is_stopped(start_worker: StartWorker, tmp_path: Path) -> None:
    start_worker()
    job = jobs.Slow()
    job.get(str(tmp_path))
    job.refresh_later(str(tmp_path))
    eventually(lambda: (tmp_path / "starts").read_text().count("\n") == 2, PATIENCE)
    error = eventually(lambda: job.explain(str(tmp_path)).last_error, PATIENCE)
    assert error == "async_cache.exceptions.FetchTimeout"
    assert job.peek(str(tmp_path)), "the stale value is kept"


def test_a_killed_worker_is_replaced_within_lease_and_fetch(
    start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker()
    job = jobs.Slow()
    before = job.get(str(tmp_path))
    job.get(str(tmp_path))
    eventually(lambda: (tmp_path / "starts").read_text().count("\n") == 2, PATIENCE)
    worker.kill()
    start_worker()
    start = time.monotonic()

    def read() -> str:
        guards.forget()  # as if many processes read
        return job.get(str(tmp_path))

    with Lateness() as late:
        refreshed(read, before)
    # The lease ends by itself, then a read asks again: 1 s here, and the time of the machine.
    assert time.monotonic() - start < job.lease + job.fetch_timeout + 3 + late.seconds


def test_what_was_asked_for_without_a_worker_is_done_when_one_comes(
    start_worker: StartWorker,
) -> None:
    first = start_worker()
    first.stop()
    job = jobs.Counting()
    before = job.get("ann")
    handle = job.refresh_later("ann")
    assert not handle.coalesced
    assert job.refresh_later("ann").coalesced
    start_worker()
    refreshed(lambda: str(job.peek("ann")), before)


def test_a_message_of_another_project_is_dropped(start_worker: StartWorker) -> None:
    worker = start_worker(overrides={"SECRET_KEY": "another project's"})
    job = jobs.Counting()
    before = job.get("ann")
    handle = job.refresh_later("ann")
    worker.wait_for(rf"{handle.task_id}.*'dropped': 1")
    assert job.peek("ann") == before
    assert get_settings().cache in ("redis", "file")
