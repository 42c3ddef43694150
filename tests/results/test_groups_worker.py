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

    failing = async_task("math.sqrt", -1, group="modf", task_name="winter-speaker-alpha-ceiling")
    task = fetch("winter-speaker-alpha-ceiling", wait=30_000)
    assert task is not None
    assert (task.task_id, task.success, type(task.result)) == (failing, False, ValueError)
    assert worker.name in str(task.worker)

    failure_count = count_group("modf", failures=True)
    assert (failure_count, count_group("modf")) == (1, 5)
    results: Any = fetch_group("modf")
    assert len(results) == 5
    if failure_count:
        results = results.exclude(success=False)
    first = [task.result for task in results]
    results = fetch_group("modf", failures=False)
    assert [task.result for task in results] == first == result_group("modf")
    assert len(result_group("modf", failures=True)) == 5

    assert task.group_count() == 5
    assert (task.group, task.group_result()) == ("modf", first)
    assert task.group_delete() == 5
    assert (result_group("modf"), count_group("modf")) == ([], 0)
    assert fetch(failing) is not None, "the members stay"
    for i in range(2):
        async_task("math.modf", i, group="modf")
    assert result_group("modf", count=2) == [(0.0, 0.0), (0.0, 1.0)]
    assert delete_group("modf", tasks=True) == 2


def test_the_example_with_the_cache(
    redis_caches: str, celery_worker_process: Any, settings: Any
) -> None:
    settings.ASYNC_CACHE = {"CACHE": "redis", "RESULTS": {"MAX_WAIT": 30}}
    celery_worker_process(concurrency=2)
    a = AsyncTask("math.floor", 2.5, group="math", cached=True)
    assert a.result_group(count=1) == [2]
    for _ in range(9):
        a.run()
    assert a.result_group(count=10) == [2] * 10
    assert a.result(wait=30_000) == 2
    assert count_group("math", cached=True) == 10
    assert count_group("math", cached=False) == 0
    assert result(str(a.id), cached=True) == 2
    for arguments in ({"failures": True}, {"wait": -1}, {"wait": 100, "count": 10}):
        assert result_group("math", cached=True, **arguments) == [2] * 10
        assert len(list(fetch_group("math", cached=True, **arguments))) == 10
    assert count_group("math", failures=True, cached=True) == 0
    assert delete_group("math", cached=True) == 10
    assert delete_group("math", cached=True) == 0
