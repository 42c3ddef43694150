"""Write-through: Redis for the app, rows first for the tasks that want them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import redis
from celery import states
from celery.app.task import Context
from celery.result import GroupResult
from django.db import OperationalError

from async_cache.exceptions import ConfigurationError
from async_cache.results.backends import WriteThroughBackend
from async_cache.results.backends.buffer import BATCH, RowBuffer, flush_rows
from async_cache.results.exceptions import RecordRejected
from async_cache.results.models import TaskResult
from tests.results.celery_support import group_of, make_app, result_of

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def app(redis_url: str) -> Any:
    app = make_app(result_backend=f"async-cache-redis+{redis_url}")

    def nothing() -> None:
        """Do nothing."""

    for name, persist in (("plain", None), ("kept", True), ("batched", "buffered")):
        app.task(name=name, shared=False, persist=persist)(nothing)
    app.finalize()
    assert type(app.backend) is WriteThroughBackend
    return app


@pytest.fixture
def client(redis_url: str) -> Any:
    return redis.Redis.from_url(redis_url)


def store(
    app: Any, task: str, task_id: str, state: str, value: Any = None, retries: int = 0
) -> str:
    request = Context({"id": task_id, "task": task, "retries": retries})
    app.backend.store_result(task_id, value, state, request=request)
    return str(app.backend.get_task_meta(task_id, cache=False)["status"])


def ids() -> list[str]:
    return sorted(TaskResult.objects.values_list("task_id", flat=True))


def test_only_tasks_that_persist_have_rows(app: Any, settings: Any) -> None:
    store(app, "plain", "p", states.SUCCESS, 1)
    store(app, "kept", "k", states.SUCCESS, 2)
    assert ids() == ["k"]
    assert [result_of(n, app).get(timeout=5) for n in ("p", "k")] == [1, 2]
    header = Context({"id": "h", "task": "plain", "persist": True})
    app.backend.store_result("h", 4, states.SUCCESS, request=header)
    settings.ASYNC_CACHE = {**settings.ASYNC_CACHE, "RESULTS": {"PERSIST": True}}
    store(app, "plain", "q", states.SUCCESS, 3)
    assert ids() == ["h", "k", "q"]


def test_what_redis_has_lost_is_read_from_the_database(app: Any, client: Any) -> None:
    for n in range(3):
        store(app, "kept", f"m{n}", states.SUCCESS, n)
    app.backend.mark_as_failure("f", KeyError("k"), request=Context({"id": "f", "task": "kept"}))
    client.flushdb()
    group = group_of("g", [result_of(f"m{n}", app) for n in range(3)], app)
    assert group.get(timeout=5) == [0, 1, 2]
    assert isinstance(result_of("f", app).result, KeyError)
    assert app.backend.task_result_exists("f")
    assert result_of("unknown", app).state == "PENDING"


def test_writes_are_ranked_in_redis(app: Any) -> None:
    for task in ("plain", "kept"):
        assert store(app, task, task, states.RETRY) == "RETRY"
        assert store(app, task, task, states.STARTED) == "RETRY"
        assert store(app, task, task, states.STARTED, retries=1) == "STARTED"
        assert store(app, task, task, states.SUCCESS, 1, retries=1) == "SUCCESS"
        assert store(app, task, task, states.FAILURE, {}, retries=2) == "SUCCESS"


def test_redis_is_told_what_the_row_says(app: Any, client: Any) -> None:
    """A worker was killed after it had written the row; the task was delivered again and failed."""
    store(app, "kept", "k", states.SUCCESS, "first")
    client.flushdb()
    store(app, "kept", "k", states.FAILURE, {}, retries=1)
    assert client.get("celery-task-meta-k") is not None
    assert result_of("k", app).get(timeout=5) == "first"


def test_the_row_is_written_before_redis_is_told(
    app: Any, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise OperationalError("down")

    monkeypatch.setattr(app.backend.database, "save", fail)
    with pytest.raises(OperationalError):
        store(app, "kept", "k", states.SUCCESS)
    assert client.keys() == []


def test_forget_forgets_both(app: Any, client: Any) -> None:
    store(app, "kept", "k", states.SUCCESS, 1)
    result_of("k", app).forget()
    assert (client.keys(), ids()) == ([], [])


def test_groups_of_rows(app: Any, client: Any, settings: Any) -> None:
    settings.ASYNC_CACHE = {**settings.ASYNC_CACHE, "RESULTS": {"PERSIST": True}}
    group = group_of("g", [result_of("a", app)], app)
    group.save()
    client.flushdb()
    restored = GroupResult.restore("g", app=app)
    assert restored is not None
    assert restored.as_tuple() == group.as_tuple()
    restored.delete()
    assert app.backend.restore_group("g", cache=False) is None


def test_a_pickle_that_was_not_sealed_here_is_not_loaded(app: Any, client: Any) -> None:
    import pickle

    backend = WriteThroughBackend(app=app, serializer="pickle", url=app.backend.url)
    backend.store_result("p", (1, 2), states.SUCCESS)
    assert backend._get_task_meta_for("p")["result"] == (1, 2)
    client.set("celery-task-meta-p", b"0" * 16 + pickle.dumps({"status": "SUCCESS"}))
    with pytest.raises(RecordRejected):
        backend._get_task_meta_for("p")


def test_buffered_rows_come_later(app: Any) -> None:
    store(app, "batched", "b", states.STARTED)
    store(app, "batched", "b", states.SUCCESS, 5)
    assert result_of("b", app).get(timeout=5) == 5
    flush_rows()
    row = TaskResult.objects.get(task_id="b")
    assert (row.status, row.result) == ("SUCCESS", "5")
    assert row.date_started is not None


def row(task_id: str, rank: int) -> dict[str, Any]:
    names = ["task_name", "task_args", "task_kwargs", "periodic_task_name", "worker", "group"]
    names += ["sequence", "date_queued", "date_started", "date_created", "hidden"]
    fields = dict.fromkeys(names)
    return {**fields, "task_id": task_id, "rank": rank}


def test_a_buffer_writes_batches_of_different_tasks() -> None:
    batches: list[list[str]] = []
    told = threading.Event()

    def write(rows: Sequence[Mapping[str, Any]]) -> None:
        batches.append([str(found["task_id"]) for found in rows])
        if sum(map(len, batches)) >= BATCH + 1:
            told.set()

    buffer = RowBuffer(write)
    for n in range(BATCH + 1):
        buffer.put(row(str(n), 0))
        buffer.put(row(str(n), 1))
    assert told.wait(5)
    assert all(len(batch) == len(set(batch)) <= BATCH for batch in batches)


def test_a_buffer_keeps_its_rows_while_the_database_fails() -> None:
    failing, written = [True], list[Any]()

    def write(rows: Sequence[Mapping[str, Any]]) -> None:
        if failing[0]:
            raise OperationalError("down")
        written.extend((found["task_id"], found["rank"]) for found in rows)

    buffer = RowBuffer(write)
    with buffer._changed:
        buffer._keep(row("a", 5))
    assert not buffer.flush()
    with buffer._changed:
        buffer._keep(row("a", 3))
    failing[0] = False
    assert buffer.flush()
    assert written == [("a", 5)]


def test_without_an_address_the_cache_must_be_on_redis(
    settings: Any, redis_caches: str, redis_url: str
) -> None:
    with pytest.raises(ConfigurationError, match=r"async-cache-redis\+redis://"):
        make_app(result_backend="async-cache-redis").backend  # noqa: B018
    settings.ASYNC_CACHE = {**settings.ASYNC_CACHE, "RESULTS": {"CACHE": "redis"}}
    app: Any = make_app(result_backend="async-cache-redis")
    server = redis.Redis.from_url(settings.CACHES["redis"]["LOCATION"]).connection_pool
    assert app.backend.connparams["port"] == server.connection_kwargs["port"]
    settings.ASYNC_CACHE = {}
    named: Any = make_app(result_backend="async-cache-redis", redis_host="redis.example")
    assert named.backend.connparams["host"] == "redis.example"
