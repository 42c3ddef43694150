"""Results by task and group, on the database and on a cache."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from django.core.management import call_command

from async_cache import results
from async_cache.results import NoResult, async_task
from async_cache.results.codec import encode_error, encode_value
from async_cache.results.layers import get_layer
from async_cache.results.proxies import Task
from async_cache.results.records import FAILURE, STARTED, SUCCESS, Record

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.parametrize("cached", [0, 1])]


@pytest.fixture(autouse=True)
def _where(cached: int, settings: Any) -> None:
    settings.ASYNC_CACHE = {
        "CACHE": "default",
        "RESULTS": {"CACHED": bool(cached), "MAX_WAIT": 0.3},
    }


def save(task_id: str, value: Any, group: str = "g", sequence: int | None = None) -> None:
    failed = isinstance(value, Exception)
    encoded = encode_error(value) if failed else encode_value(value, task_id)
    record = Record(task_id, state=FAILURE if failed else SUCCESS, group=group, sequence=sequence)
    get_layer().save(record.replace(**encoded._asdict()))


def test_the_unknown_is_empty() -> None:
    assert results.result_group("no") == []
    assert list(results.fetch_group("no")) == []
    assert (results.count_group("no"), results.count_group("no", failures=True)) == (0, 0)
    assert results.delete_group("no") == 0
    assert results.result("no") is None
    assert results.fetch("no") is None
    with pytest.raises(NoResult, match="no"):
        results.get("no")


@pytest.mark.parametrize("value", [None, 0, [], "", (1, (2,))])
def test_empty_values_are_results(value: Any) -> None:
    save("a", value)
    assert results.get("a") == value
    found = results.fetch("a")
    assert found is not None
    assert (found.result, found.success) == (value, True)
    assert results.result_group("g") == [value]


def test_a_count_or_a_wait_of_another_type_is_named() -> None:
    wrong: Any = "4"
    for ask in (results.result_group, results.fetch_group):
        for group in ("g", ""):
            with pytest.raises(TypeError, match="count takes an int or None, not '4'"):
                ask(group, count=wrong)
            with pytest.raises(TypeError, match="wait takes a number of milliseconds"):
                ask(group, wait=wrong)
    for find in (results.result, results.fetch, results.get):
        with pytest.raises(TypeError, match="wait takes a number of milliseconds"):
            find("a", wait=wrong)


def test_call_order_failures_and_counts() -> None:
    save("c", "third", sequence=3)
    save("b", ValueError("bad"), sequence=2)
    save("a", "first", sequence=1)
    get_layer().save(Record("d", state=STARTED, group="g", sequence=0))
    assert results.result_group("g") == ["first", "third"]
    first, error, third = results.result_group("g", failures=True)
    assert (first, str(error), third) == ("first", "bad", "third")
    assert isinstance(error, ValueError)
    assert [t.task_id for t in results.fetch_group("g")] == ["a", "b", "c"]
    assert [t.task_id for t in results.fetch_group("g", failures=False)] == ["a", "c"]
    assert [t.success for t in results.fetch_group("g")] == [True, False, True]
    assert (results.count_group("g"), results.count_group("g", failures=True)) == (3, 1)
    with pytest.raises(ValueError, match="bad"):
        results.get("b")


def test_a_redelivered_task_is_one_member() -> None:
    for _ in range(2):
        save("a", 1)
    assert (results.result_group("g"), results.count_group("g")) == ([1], 1)


@pytest.mark.parametrize("tasks", [False, True])
def test_deleting_a_group(tasks: bool) -> None:
    save("a", 1)
    save("b", 2)
    save("other", 3, group="h")
    found = results.fetch("a")
    assert found is not None
    assert found.group_count() == 2
    assert sorted(found.group_result()) == [1, 2]
    assert found.group_delete(tasks=tasks) == 2
    assert results.result_group("g") == []
    assert (results.fetch("a") is None) is tasks
    assert results.result_group("h") == [3]


def test_count_waits_and_failures_end_it() -> None:
    save("a", 1, sequence=1)
    late = threading.Timer(0.05, save, ("b", ValueError("bad"), "g", 2))
    late.start()
    assert results.result_group("g", count=2) == [1]
    late.join()
    assert results.count_group("g") == 2


def test_every_wait_is_bounded(settings: Any) -> None:
    begun = time.monotonic()
    assert results.result_group("g", count=2) == []
    assert results.result("no", wait=-1) is None
    assert 0.6 <= time.monotonic() - begun < 5
    found = settings.ASYNC_CACHE["RESULTS"]
    settings.ASYNC_CACHE = {"CACHE": "default", "RESULTS": {**found, "MAX_WAIT": 10}}
    begun = time.monotonic()
    assert results.result_group("g", wait=50, count=2) == []
    assert 0.05 <= time.monotonic() - begun < 9


def test_twins() -> None:
    save("a", 1)

    async def ask() -> list[Any]:
        found = await results.afetch("a")
        tasks = await results.afetch_group("g")
        return [
            await results.aresult("a"),
            await results.aget("a", wait=10),
            await results.aresult_group("g", count=1),
            await results.acount_group("g"),
            found is not None and found.success,
            type(tasks).__name__,
        ]

    kind = "list" if results.get_layer().name != "database" else "QuerySet"
    assert asyncio.run(ask()) == [1, 1, [1], 1, True, kind]
    assert asyncio.run(results.adelete_group("g")) == 1


def test_sync_calls() -> None:
    path = f"{__name__}.note"
    SEEN.clear()
    kept = async_task("math.modf", 1, group="g", sync=True, hook=path)
    assert results.get(kept) == (0.0, 1.0)
    assert [(t.task_id, t.success, t.result) for t in SEEN] == [(kept, True, (0.0, 1.0))]
    assert results.fetch(async_task("math.modf", 1, sync=True, save=False)) is None
    broken = results.fetch(async_task("no.such.module", sync=True, save=False))
    assert broken is not None
    assert isinstance(broken.result, ImportError)
    assert "no.such.module" in str(broken.traceback)
    own = async_task(same, group="mine", q_options={"group": "g", "sync": True})
    assert results.get(own) == "mine"
    assert results.get(async_task(later, 2, sync=True)) == 4


def test_what_is_refused_at_the_call() -> None:
    functions: list[Any] = [lambda: 1, [].append, "plain"]
    for func in functions:
        with pytest.raises(TypeError):
            async_task(func)
    with pytest.raises(TypeError, match="grup"):
        async_task("math.modf", 1, q_options={"grup": "g"})


def test_the_migrations_know_the_proxy() -> None:
    call_command("makemigrations", "async_cache_results", check=True, dry_run=True, verbosity=0)


SEEN: list[Task] = []


def note(task: Task) -> None:
    SEEN.append(task)


def same(group: str) -> str:
    return group


async def later(x: int) -> int:
    return x * 2
