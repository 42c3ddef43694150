"""The functions of groups against a real worker."""

from __future__ import annotations

from typing import Any

import pytest

from async_cache.results import (
    AsyncTask,
    async_task,
    count_group,
    delete_group,
    fetch,
    fetch_group,
    result,
    result_group,
)

pytestmark = pytest.mark.django_db(transaction=True)


def test_the_examples_of_the_document(
    redis_caches: str, celery_worker_process: Any, settings: Any
) -> None:
    settings.ASYNC_CACHE = {"CACHE": "redis", "RESULTS": {"MAX_WAIT": 30}}
    worker = celery_worker_process(concurrency=2)
    for i in range(4):
        async_task("math.modf", i, group="modf")
    assert result_group("modf", count=4) == [(0.0, 0.0), (0.0, 1.0), (0.0, 2.0), (0.0, 3.0)]

    tasks = fetch_group("modf")
    assert not isinstance(tasks, list)
    successes = tasks.exclude(success=False)  # type: ignore[misc]
    assert [t.result for t in successes] == result_group("modf")

    failing = async_task("math.sqrt", -1, group="modf", task_name="broken")
    ended = fetch("broken", wait=30_000)
    assert ended is not None
    assert (ended.task_id, ended.success, type(ended.result)) == (failing, False, ValueError)
    assert worker.name in str(ended.worker)
    assert (count_group("modf"), count_group("modf", failures=True)) == (5, 1)
    assert (ended.group_count(), len(ended.group_result())) == (5, 4)
    assert delete_group("modf") == 5
    assert result_group("modf") == []

    a = AsyncTask("math.floor", 2.5, group="math", cached=True)
    assert a.result_group(count=1) == [2]
    for _ in range(9):
        a.run()
    assert a.result_group(count=10) == [2] * 10
    assert a.result(wait=30_000) == 2
    assert count_group("math", cached=True) == 10
    assert count_group("math", cached=False) == 0
    assert result(str(a.id), cached=True) == 2
