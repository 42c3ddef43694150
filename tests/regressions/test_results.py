"""The result store: odd labels, texts that no database takes, rows that are refused."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
import redis
from celery.app.task import Context
from django.db import OperationalError, connections

from async_cache import ConfigurationError, UnstorableValue, results
from async_cache.control import NotSent
from async_cache.results import (
    AsyncTask,
    TaskFailed,
    apart,
    async_task,
    fetch,
    result,
    result_group,
)
from async_cache.results.backends import cache
from async_cache.results.backends.buffer import RowBuffer
from async_cache.results.control import send_again
from async_cache.results.layers import get_cache_layer
from async_cache.results.layers.cache import CacheLayer
from async_cache.results.models import TaskMeta, TaskResult
from async_cache.results.records import SUCCESS, Record
from async_cache.results.upkeep import purge
from tests.celery_app import app as celery_app
from tests.results.celery_support import make_app
from tests.results.databases import on_databases

HERE = __name__
ON_SQLITE = pytest.mark.django_db(transaction=True)
EVERYWHERE = pytest.mark.parametrize("cached", [False, True])


@pytest.fixture
def _on_postgres(settings: Any) -> Iterator[None]:
    settings.DATABASE_ROUTERS = ["tests.results.databases.RowsOnPostgres"]
    yield
    apart.close()


def raise_text(text: str) -> None:
    raise ValueError(text)


async def cancelled() -> None:
    raise asyncio.CancelledError("by itself")


@ON_SQLITE
@EVERYWHERE
def test_no_label_is_no_group_and_not_all_that_have_none(cached: bool) -> None:
    task_id = async_task("math.floor", 2.5, sync=True, cached=cached)
    none: Any = None
    assert result_group(none, cached=cached) == []
    assert result_group(none, count=1, cached=cached) == []
    assert list(results.fetch_group(none, cached=cached)) == []
    assert results.count_group(none, cached=cached) == 0
    assert results.delete_group(none, tasks=True, cached=cached) == 0
    assert results.get_layer(cached).delete_group(none or "", tasks=True) == 0
    assert result(task_id, cached=cached) == 2


@ON_SQLITE
def test_the_layer_of_the_database_takes_no_label_for_none() -> None:
    task_id = async_task("math.floor", 2.5, sync=True)
    none: Any = None
    assert results.get_layer(False).delete_group(none, tasks=True) == 0
    assert results.get_layer(False).group(none) == []
    assert result(task_id) == 2


@ON_SQLITE
@EVERYWHERE
def test_a_label_may_be_a_number(cached: bool) -> None:
    number: Any = 5
    async_task("math.floor", 2.5, group=5, sync=True, cached=cached)
    assert result_group(number, count=1, cached=cached) == [2]
    assert results.count_group(number, cached=cached) == 1
    assert results.delete_group(number, cached=cached) == 1


@ON_SQLITE
def test_what_is_cached_may_have_a_longer_label_than_a_row() -> None:
    label = "g" * 300
    async_task("math.floor", 2.5, group=label, sync=True, cached=True)
    [task] = results.fetch_group(label, cached=True)
    assert (task.group, task.result, task.group_count()) == (label, 2, 1)


@on_databases
@pytest.mark.usefixtures("_on_postgres")
@pytest.mark.parametrize("label", ["g" * 300, "g\x00", "g\ud800"])
def test_a_label_that_no_row_can_hold_is_refused_at_the_call(label: str) -> None:
    with pytest.raises(UnstorableValue, match="group"):
        async_task("math.floor", 2.5, group=label, sync=True, cached=False)


@on_databases
@pytest.mark.parametrize("text", ["a\x00b", "a\ud800b"])
@pytest.mark.parametrize("place", ["sqlite", "postgres"])
def test_an_error_with_text_that_no_database_takes_is_kept(
    text: str, place: str, request: pytest.FixtureRequest
) -> None:
    if place == "postgres":
        request.getfixturevalue("_on_postgres")
    task_id = async_task(f"{HERE}.raise_text", text, sync=True)
    error = result(task_id)
    assert (type(error), str(error)) == (ValueError, text)
    traceback = TaskResult.objects.get(task_id=task_id).traceback
    assert traceback is not None
    assert "raise_text" in traceback
    assert text not in traceback


@ON_SQLITE
@pytest.mark.parametrize("bad", [-5, float("nan"), float("inf"), "yes"])
@pytest.mark.parametrize("option", ["cached", "timeout"])
def test_a_time_that_is_none_is_refused_at_the_call(option: str, bad: Any) -> None:
    with pytest.raises(ConfigurationError, match=option):
        async_task("math.floor", 2.5, sync=True, **{option: bad})


@pytest.mark.parametrize("func", [None, "", ".", "floor", "..floor", "math.", "shop.f.<locals>.g"])
@pytest.mark.parametrize("place", ["func", "hook"])
def test_what_is_no_path_is_refused_at_the_call(place: str, func: Any) -> None:
    if (place, func) == ("hook", None):
        pytest.skip("no hook")
    called, options = (func, {}) if place == "func" else ("math.floor", {"hook": func})
    with pytest.raises(TypeError, match="dotted path"):
        async_task(called, 2.5, sync=True, cached=True, **options)


@ON_SQLITE
def test_zero_is_no_timeout_and_no_cache() -> None:
    with pytest.raises(ConfigurationError, match="timeout"):
        async_task("math.floor", 2.5, sync=True, timeout=0)
    # As False is: nothing is kept for no time at all.
    task_id = async_task("math.floor", 2.5, sync=True, cached=0)
    assert result(task_id, cached=0) == result(task_id, cached=False) == 2


@ON_SQLITE
def test_a_coroutine_that_was_cancelled_has_failed() -> None:
    task_id = async_task(f"{HERE}.cancelled", sync=True)
    error = result(task_id)
    assert isinstance(error, TaskFailed)
    assert error.error_type == "asyncio.exceptions.CancelledError"


@ON_SQLITE
def test_a_redact_that_fails_keeps_the_result_and_no_arguments() -> None:
    app = make_app(result_backend="async-cache-db", result_extended=True)

    def redact(args: Any, kwargs: Any) -> Any:
        raise ZeroDivisionError

    @app.task(name="charge", shared=False, redact=redact)
    def charge(card: str) -> str:
        return "charged"

    app.finalize()
    request = Context({"id": "r", "task": "charge", "args": ("4711",), "argsrepr": "('4711',)"})
    app.backend.mark_as_done("r", "charged", request=request)
    row = TaskResult.objects.get(task_id="r")
    assert row.result == '"charged"'
    assert row.task_args is None


@on_databases
@pytest.mark.usefixtures("_on_postgres")
def test_a_row_that_the_database_refuses_takes_no_other_with_it() -> None:
    rows = TaskResult.objects
    buffer = RowBuffer(rows.store_rows)
    buffer._thread = threading.current_thread()  # flushed below
    empty = dict.fromkeys(
        ("traceback", "meta", "periodic_task_name", "task_name", "task_args", "task_kwargs")
    )
    for number in range(5):
        state = "SUCCESS" if number != 2 else "S" * 60
        known = {"content_type": "", "content_encoding": "", "result": "1", "worker": None}
        buffer.put(rows.make_row(task_id=f"t{number}", status=state, **known, **empty))
    assert buffer.flush()
    assert set(rows.values_list("task_id", flat=True)) == {"t0", "t1", "t3", "t4"}


@ON_SQLITE
def test_a_task_whose_arguments_changed_is_not_sent_again() -> None:
    @celery_app.task(name="regressions.two", shared=False)
    def two(first: int, second: int) -> int:
        return first + second

    row = TaskResult(task_id="t", task_name=two.name, task_args="(1,)", task_kwargs="{}")
    with pytest.raises(NotSent, match="second"):
        send_again(row)


@ON_SQLITE
def test_an_age_before_all_dates_purges_nothing() -> None:
    async_task("math.floor", 2.5, sync=True)
    assert purge({"SUCCESS": 1e12}).deleted == 0


@ON_SQLITE
@EVERYWHERE
def test_calls_and_tasks_have_twins_for_event_loops(cached: bool) -> None:
    async def ask() -> None:
        call = AsyncTask("math.floor", 2.5, group="g", sync=True, cached=cached)
        assert await call.aresult() == 2
        task = await call.afetch()
        assert task is not None
        assert await call.aresult_group(count=1) == [2]
        assert [one.task_id async for one in _each(await call.afetch_group())] == [call.id]
        assert (await task.agroup_result(), await task.agroup_count()) == ([2], 1)
        assert await task.agroup_delete() == 1
        assert await call.arun() == call.id

    async def _each(found: Any) -> Any:
        if isinstance(found, list):
            for one in found:
                yield one
        else:
            async for one in found:
                yield one

    asyncio.run(ask())
    assert fetch("no", cached=cached) is None
    connections.close_all()


def test_a_body_that_takes_longer_to_call_than_its_lease_is_called_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lease = 0.6
    monkeypatch.setattr(cache, "CHORD_LEASE", lease)
    begun, calls = threading.Event(), []

    def call_slowly(*_: Any) -> None:
        calls.append(1)
        begun.set()
        # As a broker that takes its time.
        time.sleep(2 * lease)

    monkeypatch.setattr(cache, "call_body", call_slowly)
    app: Any = make_app(result_backend="async-cache")
    body = app.signature("total")
    body.freeze()
    app.backend.apply_chord(("slow", [app.AsyncResult("a")]), body)
    request = Context({"id": "a", "task": "add", "group": "slow", "chord": body})

    def end() -> None:
        app.backend.mark_as_done("a", 1, request=request)

    first = threading.Thread(target=end)
    first.start()
    assert begun.wait(10)
    # Delivered again meanwhile.
    end()
    first.join(10)
    assert calls == [1]


@ON_SQLITE
def test_redis_gets_no_argument_that_a_task_redacts(redis_url: str) -> None:
    app: Any = make_app(result_backend=f"async-cache-redis+{redis_url}", result_extended=True)

    def nothing(card: str) -> None:
        """Do nothing."""

    app.task(name="charge", shared=False, redact=lambda args, kwargs: (("-",), {}))(nothing)
    app.finalize()
    request = Context({"id": "r", "task": "charge", "args": ("4711",), "kwargs": {"pin": "0815"}})
    app.backend.mark_as_done("r", None, request=request)
    stored: Any = redis.Redis.from_url(redis_url).get("celery-task-meta-r")
    assert b"4711" not in stored
    assert b"0815" not in stored
    assert app.AsyncResult("r").args == "('-',)"


@ON_SQLITE
def test_write_through_tries_again_what_its_database_refused(redis_url: str) -> None:
    app: Any = make_app(result_backend=f"async-cache-redis+{redis_url}")
    assert app.backend.exception_safe_to_retry(OperationalError())
    assert app.backend.exception_safe_to_retry(redis.ConnectionError())
    assert not app.backend.exception_safe_to_retry(ValueError())


def test_a_group_whose_members_redis_evicted_counts_those_it_has(
    redis_caches: Any, redis_url: str
) -> None:
    layer = get_cache_layer("redis")
    for number in range(3):
        layer.save(Record(f"a{number}", state=SUCCESS, group="g"))
    client = redis.Redis.from_url(redis_url)
    client.delete(max(client.keys("*-g:g*"), key=len))
    layer.save(Record("b", state=SUCCESS, group="g"))
    layer.save(Record("a1", state=SUCCESS, group="g"))
    assert {record.id for record in layer.group("g")} == {"b", "a1"}
    assert layer.count("g").ended == 2


@on_databases
@pytest.mark.usefixtures("_on_postgres")
def test_the_cap_of_groups_waits_for_no_row_that_another_holds() -> None:
    for number in range(4):
        async_task("math.floor", number, group="g", sync=True)
    oldest = TaskResult.objects.order_by("date_done")[0]
    other = connections["postgres"].copy()
    try:
        with other.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute(
                "SELECT 1 FROM async_cache_results_taskresult WHERE id = %s FOR UPDATE", [oldest.pk]
            )
            with connections["postgres"].cursor() as own:
                own.execute("SET lock_timeout = 2000")
            assert purge({"*": 1e9}, group_cap=2).deleted == 1
            cursor.execute("ROLLBACK")
    finally:
        other.close()
    assert purge({"*": 1e9}, group_cap=2).deleted == 1
    assert list(TaskResult.objects.order_by("date_done").values_list("sequence", flat=True)) == [
        2,
        3,
    ]


@ON_SQLITE
@pytest.mark.parametrize(
    "value",
    [
        datetime(2026, 11, 21, tzinfo=UTC),
        Decimal("1.50"),
        uuid.UUID(int=7),
        b"\x00\xff",
        [date.min],
    ],
)
def test_what_json_of_celery_marks_comes_back_as_it_was(value: Any) -> None:
    app: Any = make_app(result_backend="async-cache-db")
    app.backend.mark_as_done("j", {"value": value}, request=Context({"id": "j", "task": "add"}))
    assert app.backend.get_result("j") == {"value": value}
    assert results.get("j") == {"value": value}
    row: Any = TaskMeta.objects.get(task_id="j")
    assert row.result == {"value": value}


@ON_SQLITE
def test_what_only_looks_marked_is_left_alone(settings: Any) -> None:
    settings.ASYNC_CACHE = {**settings.ASYNC_CACHE, "RESULTS": {"SERIALIZER": "json"}}
    value = {"__type__": "invoice", "__value__": 7}
    task_id = async_task("copy.copy", value, sync=True)
    assert results.get(task_id) == value


def test_a_chord_in_a_cache_is_not_counted_anew_for_each_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted = []
    count = CacheLayer.count

    def count_noted(layer: CacheLayer, group_id: str) -> Any:
        counted.append(group_id)
        return count(layer, group_id)

    monkeypatch.setattr(CacheLayer, "count", count_noted)
    calls = []
    monkeypatch.setattr(cache, "call_body", lambda *_: calls.append(1))
    app: Any = make_app(result_backend="async-cache")
    body = app.signature("total")
    body.freeze()
    parts = [f"p{number}" for number in range(100)]
    app.backend.apply_chord(("wide", [app.AsyncResult(part) for part in parts]), body)
    for part in reversed(parts):
        request = Context({"id": part, "task": "add", "group": "wide", "chord": body})
        app.backend.mark_as_done(part, 1, request=request)
    assert calls == [1]
    assert len(counted) == 1
