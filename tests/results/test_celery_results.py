"""Results of real workers through the backends."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import chord, group
from celery.exceptions import ChordError
from celery.result import GroupResult

from async_cache.results.models import ChordCounter, ChordPart, TaskResult
from tests.celery_app import app
from tests.conftest import flush
from tests.results import celery_tasks as tasks
from tests.results.celery_support import TASKS, backend_of, result_of
from tests.workers import WorkerProcess

pytestmark = [pytest.mark.integration, pytest.mark.django_db(transaction=True)]

StartWorker = Callable[..., WorkerProcess]
PATIENCE = 30.0


@pytest.fixture(params=["async-cache-db", "async-cache"])
def worker(
    request: pytest.FixtureRequest,
    settings: Any,
    redis_caches: Any,
    celery_worker_process: StartWorker,
) -> Iterator[WorkerProcess]:
    settings.ASYNC_CACHE = {**settings.ASYNC_CACHE, "RESULTS": {"CACHE": "redis"}}
    overrides = {
        **TASKS,
        "CELERY_RESULT_BACKEND": request.param,
        "CELERY_TASK_TRACK_STARTED": True,
        "CELERY_RESULT_EXTENDED": True,
    }
    with backend_of(request.param):
        yield celery_worker_process(concurrency=2, overrides=overrides)


def test_results_of_a_worker(worker: WorkerProcess, tmp_path: Path) -> None:
    added = tasks.add.delay(2, 3)
    assert added.get(timeout=PATIENCE) == 5
    backend: Any = app.backend
    record = backend.listened_layer.get(added.id)
    assert record.queued <= record.started <= record.finished
    failed = tasks.fail.delay("so it goes")
    with pytest.raises(ValueError, match="so it goes"):
        failed.get(timeout=PATIENCE)
    assert "so it goes" in str(failed.traceback)
    again = tasks.second_time.delay()
    assert (again.get(timeout=PATIENCE), again.retries) == (1, 1)
    mother: Any = tasks.parent.delay()
    assert mother.get(timeout=PATIENCE) == "parent"
    assert mother.children[0].get(timeout=PATIENCE) == 2
    assert (mother.name, mother.worker) == (
        "tests.results.celery_tasks.parent",
        f"{worker.name}@localhost",
    )
    flag = tmp_path / "flag"
    slow: Any = tasks.progress.delay(str(flag))
    for _ in range(3_000):
        if slow.state == "HALFWAY":
            break
        slow.backend._sleep(0.02)
    assert slow.info == {"done": 1, "of": 2}
    flag.touch()
    assert slow.get(timeout=PATIENCE) == "whole"


def test_groups_and_chords_of_a_worker(worker: WorkerProcess) -> None:
    many: Any = group(tasks.add.s(n, n) for n in range(10)).delay()
    many.save()
    assert many.get(timeout=PATIENCE) == [n + n for n in range(10)]
    restored = GroupResult.restore(many.id, app=app)
    assert restored is not None
    assert restored.successful()
    nested = group(tasks.add.s(1, 1), group(tasks.add.s(2, 2), tasks.add.s(3, 3)))
    assert nested.delay().get(timeout=PATIENCE) == [2, 4, 6]
    body = chord([tasks.add.s(n, n) for n in range(5)])(tasks.total.s())
    assert body.get(timeout=PATIENCE) == 20
    quiet = chord([tasks.quiet.s(1), tasks.add.s(1, 1)])(tasks.total.s())
    assert quiet.get(timeout=PATIENCE) == 3
    inner = chord([tasks.add.s(1, 1), tasks.add.s(2, 2)], tasks.total.s())
    outer = chord([inner, tasks.add.s(3, 3)])(tasks.total.s())
    assert outer.get(timeout=PATIENCE) == 12
    bodies = chord([tasks.total.s(), tasks.total.s()], tasks.total.s())
    assert chord([tasks.add.s(1, 1), tasks.add.s(2, 2)])(bodies).get(timeout=PATIENCE) == 12
    several: Any = group(tasks.total.s(), tasks.total.s())
    both = chord([tasks.add.s(1, 1), group(tasks.add.s(2, 2))])(several)
    assert both.get(timeout=PATIENCE) == [6, 6]


def test_chords_that_fail(worker: WorkerProcess) -> None:
    broken = chord([tasks.add.s(1, 1), tasks.fail.s("bad part")])(tasks.total.s())
    error = result_of(broken.id).get(timeout=PATIENCE, propagate=False)
    assert isinstance(error, ChordError)
    assert "bad part" in str(error)
    inner = chord([tasks.add.s(1, 1), tasks.fail.s("bad part")], tasks.total.s())
    outer = chord([inner, tasks.add.s(3, 3)])(tasks.total.s())
    error = result_of(outer.id).get(timeout=PATIENCE, propagate=False)
    assert isinstance(error, ChordError)
    assert "bad part" in str(error)
    assert not ChordCounter.objects.exists()
    assert not ChordPart.objects.exists()


def test_a_part_whose_worker_was_killed_counts_once(worker: WorkerProcess, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    header = [tasks.die_once.s(str(tmp_path / "flag")), tasks.add.s(1, 1)]
    body = chord(header)(tasks.note.s(str(lines)))
    assert body.get(timeout=PATIENCE) == ["alive", 2]
    assert lines.read_text() == "called\n"


def test_a_persistent_backend_beside_the_generic_one(
    redis_url: str, celery_worker_process: StartWorker
) -> None:
    overrides = {**TASKS, "CELERY_RESULT_BACKEND": redis_url}
    with backend_of(redis_url):
        worker = celery_worker_process(overrides=overrides)
        persistent, plain = tasks.keep.delay(4), tasks.add.delay(1, 1)
        assert plain.get(timeout=PATIENCE) == 2
        result = result_of(persistent.id, backend=tasks.persistent_backend)
        assert result.get(timeout=PATIENCE) == 4
        assert list(TaskResult.objects.values_list("task_id", flat=True)) == [persistent.id]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            body = chord([tasks.keep.s(1), tasks.add.s(1, 1)])(tasks.total.s())
            assert body.get(timeout=PATIENCE) == 3
        worker.wait_for("keeps its result in DatabaseBackend")


def test_write_through(redis_url: str, celery_worker_process: StartWorker) -> None:
    url = f"async-cache-redis+{redis_url}"
    with backend_of(url):
        celery_worker_process(concurrency=2, overrides={**TASKS, "CELERY_RESULT_BACKEND": url})
        mixed: Any = group(tasks.kept.s(1), tasks.add.s(1, 1), tasks.buffered.s(3)).delay()
        assert mixed.get(timeout=PATIENCE) == [1, 2, 3]
        header = [tasks.kept.s(1), tasks.add.s(1, 1), tasks.quiet.s(3)]
        body: Any = chord(header)(tasks.kept_total.s())
        assert body.get(timeout=PATIENCE) == 6
        broken: Any = chord([tasks.kept.s(1), tasks.fail.s("bad")])(tasks.kept_total.s())
        error = result_of(broken.id).get(timeout=PATIENCE, propagate=False)
        assert isinstance(error, ChordError)
        headers: Any = {"persist": True}
        asked: Any = tasks.add.apply_async((2, 2), headers=headers)
        assert asked.get(timeout=PATIENCE) == 4
        expected = {
            asked.id: "SUCCESS",
            mixed.results[0].id: "SUCCESS",
            mixed.results[2].id: "SUCCESS",
            body.parent.results[0].id: "SUCCESS",
            body.id: "SUCCESS",
            broken.parent.results[0].id: "SUCCESS",
            broken.id: "FAILURE",
        }
        rows: dict[str, str] = {}
        for _ in range(3_000):
            rows = dict(TaskResult.objects.values_list("task_id", "status"))
            if len(rows) == len(expected):
                break
            app.backend._sleep(0.02)  # type: ignore[attr-defined]
        assert rows == expected
        row = TaskResult.objects.get(task_id=asked.id)
        times: list[Any] = [row.date_queued, row.date_started, row.date_finished]
        assert None not in times
        assert times == sorted(times)
        flush(redis_url)
        assert result_of(body.id).get(timeout=PATIENCE) == 6
        assert result_of(body.parent.results[0].id).get(timeout=PATIENCE) == 1


def test_rows_that_wait_are_written_when_the_worker_ends(
    redis_url: str, celery_worker_process: StartWorker
) -> None:
    url = f"async-cache-redis+{redis_url}"
    with backend_of(url):
        worker = celery_worker_process(overrides={**TASKS, "CELERY_RESULT_BACKEND": url})
        results: list[Any] = [tasks.buffered.delay(n) for n in range(20)]
        assert results[-1].get(timeout=PATIENCE) == 19
        os.kill(worker.pid, signal.SIGTERM)
        for _ in range(3_000):
            if not worker.running:
                break
            app.backend._sleep(0.02)  # type: ignore[attr-defined]
        assert not worker.running
    assert TaskResult.objects.filter(status="SUCCESS").count() == 20
