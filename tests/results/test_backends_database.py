"""The backend over rows: states, ranks, values, groups, chords, age."""

from __future__ import annotations

import base64
import os
import pickle
import sys
import warnings
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import Mock

import pytest
from celery import states, uuid
from celery.app.task import Context
from celery.exceptions import TimeoutError as Timeout
from celery.result import GroupResult
from django.db import connection, transaction

from async_cache import clock
from async_cache.results.backends import CacheBackend, DatabaseBackend, publishing
from async_cache.results.backends.limits import BackendLimitWarning
from async_cache.results.exceptions import RecordRejected, TaskFailed
from async_cache.results.models import ChordCounter, ChordPart, TaskResult
from async_cache.results.models import GroupResult as GroupRow
from tests.results.celery_support import group_of, make_app, result_of

pytestmark = pytest.mark.django_db(transaction=True)


class OwnError(Exception):
    """Takes two arguments, so it cannot be rebuilt by calling it with its text."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)


@pytest.fixture
def app() -> Any:
    app = make_app(result_backend="async-cache-db")

    @app.task(name="add", shared=False)
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="total", shared=False)
    def total(values: list[int]) -> int:
        return sum(values)

    app.finalize()
    return app


@pytest.fixture
def backend(app: Any) -> Any:
    assert type(app.backend) is DatabaseBackend
    return app.backend


def request(task_id: str, **values: Any) -> Any:
    return Context({"id": task_id, "task": "add", "hostname": "w@here", **values})


def test_a_result_comes_back(backend: Any, app: Any) -> None:
    values: list[Any] = [None, 0, "", [], {"a": [1, 2]}, "ß"]
    for value in values:
        task_id = uuid()
        backend.mark_as_done(task_id, value, request=request(task_id))
        found = result_of(task_id, app)
        assert (found.state, found.get(timeout=1)) == (states.SUCCESS, value)
    assert backend.get_task_meta("unknown")["status"] == states.PENDING
    assert not backend.task_result_exists("unknown")


@pytest.mark.parametrize("serializer", ["json", "pickle", "yaml", "msgpack"])
def test_every_serializer(app: Any, serializer: str) -> None:
    backend = DatabaseBackend(app, serializer=serializer)
    task_id = uuid()
    backend.store_result(task_id, {"n": [1, "zwei"]}, states.SUCCESS, request=request(task_id))
    assert backend.get_result(task_id) == {"n": [1, "zwei"]}
    failed = uuid()
    backend.mark_as_failure(failed, KeyError("k"), request=request(failed))
    assert isinstance(backend.get_result(failed), KeyError)
    # Whichever backend reads it, as long as it accepts the content type.
    if serializer in {"json", "yaml"}:
        accept = ["application/json", "application/x-yaml"]
        other = DatabaseBackend(app, serializer="pickle", accept=accept)
        assert other.get_result(task_id) == {"n": [1, "zwei"]}


def test_compression_is_not_for_rows(app: Any) -> None:
    if "result_compression" not in app.conf:
        pytest.skip("this Celery does not know result_compression")
    app.conf.result_compression = "gzip"
    for kind in (DatabaseBackend, CacheBackend):
        with pytest.warns(UserWarning, match="result_compression setting is ignored"):
            backend = kind(app)
        backend.store_result("c", "x" * 1_000, states.SUCCESS)
        assert backend.get_result("c") == "x" * 1_000


def test_pickle_that_was_not_sealed_here_is_not_loaded(app: Any) -> None:
    backend = DatabaseBackend(app, serializer="pickle")
    backend.store_result("p", (1, 2), states.SUCCESS)
    assert backend.get_result("p") == (1, 2)

    class Bomb:
        def __reduce__(self) -> Any:
            return os.mkdir, ("/nonexistent/by/pickle",)

    forged = base64.b64encode(b"0" * 16 + pickle.dumps(Bomb())).decode()
    TaskResult.objects.filter(task_id="p").update(result=forged)
    with pytest.raises(RecordRejected):
        DatabaseBackend(app, serializer="pickle").get_result("p")


def test_errors_are_type_and_text(backend: Any) -> None:
    backend.mark_as_failure("a", ZeroDivisionError("by zero"), traceback="Traceback …")
    found = backend.get_result("a")
    assert type(found) is ZeroDivisionError
    assert str(found) == "by zero"
    assert backend.get_traceback("a") == "Traceback …"
    backend.mark_as_failure("b", OwnError(4, "teapot"))
    assert isinstance(backend.get_result("b"), OwnError | TaskFailed)


@pytest.mark.parametrize(
    ("module", "name"),
    [("os", "system"), ("antigravity", "Exception"), ("builtins", "eval"), (None, "X")],
)
def test_only_an_imported_exception_is_rebuilt(backend: Any, module: Any, name: str) -> None:
    stored = {"exc_module": module, "exc_type": name, "exc_message": "rm -rf"}
    backend._store_result("x", stored, states.FAILURE)
    assert isinstance(backend.get_result("x"), TaskFailed)
    assert "antigravity" not in sys.modules


def test_a_failure_that_the_project_stored_itself_can_be_read(backend: Any) -> None:
    backend.store_result("x", {"step": 3}, states.FAILURE)
    assert isinstance(backend.get_result("x"), TaskFailed)


def test_writes_are_ranked(backend: Any) -> None:
    def store(state: str, retries: int, value: Any = None) -> str:
        backend.store_result("r", value, state, request=request("r", retries=retries))
        return str(backend.get_task_meta("r", cache=False)["status"])

    assert store(states.STARTED, 0) == "STARTED"
    assert store("HALFWAY", 0, {"done": 1}) == "HALFWAY"
    assert backend.get_task_meta("r")["result"] == {"done": 1}
    assert store(states.RETRY, 0) == "RETRY"
    assert store(states.STARTED, 0) == "RETRY"
    assert store(states.STARTED, 1) == "STARTED"
    assert store(states.FAILURE, 0) == "STARTED"
    assert store(states.SUCCESS, 1, "done") == "SUCCESS"
    assert store(states.STARTED, 2) == "SUCCESS"
    assert backend.get_task_meta("r")["result"] == "done"


def test_what_is_kept_of_the_call(backend: Any, app: Any) -> None:
    known = request("k", group="g", group_index=3, parent_id="p", retries=2, args=["secret"])
    known.children.append(result_of("child", app))
    known.periodic_task_name = "nightly"
    backend.store_result("k", 1, states.SUCCESS, request=known)
    row = TaskResult.objects.get(task_id="k")
    assert (row.task_name, row.worker, row.group, row.sequence) == ("add", "w@here", "g", 3)
    assert (row.periodic_task_name, row.task_args, row.retries) == ("nightly", None, 2)
    assert row.date_finished is not None
    meta = backend.get_task_meta("k")
    assert (meta["parent_id"], meta["group_id"]) == ("p", "g")
    assert [child.id for child in result_of("k", app).children] == ["child"]


@pytest.mark.parametrize("sent", [1e300, -1.0, float("nan"), "soon", None, 5])
def test_a_message_cannot_say_when_it_was_sent_as_it_likes(backend: Any, sent: Any) -> None:
    backend.store_result("s", 1, states.SUCCESS, request=request("s", async_cache_sent=sent))
    row = TaskResult.objects.get(task_id="s")
    assert (row.date_queued is None) is (sent != 1e300)
    assert row.date_queued is None or row.date_queued <= row.date_done


def test_arguments_are_stored_only_when_asked_and_redacted(app: Any) -> None:
    app.conf.result_extended = True
    backend = app.backend
    backend.store_result("a", 1, states.SUCCESS, request=request("a", args=[1], kwargs={"y": 2}))
    result = result_of("a", app)
    assert (result.args, result.kwargs, result.name) == ("[1]", "{'y': 2}", "add")
    shown = request("b", args=["secret"], argsrepr="('***',)")
    backend.store_result("b", 1, states.SUCCESS, request=shown)
    assert TaskResult.objects.get(task_id="b").task_args == "('***',)"
    app.tasks["add"].redact = lambda args, kwargs: (("-",), {})
    backend.store_result("c", 1, states.SUCCESS, request=request("c", args=["secret"]))
    assert TaskResult.objects.get(task_id="c").task_args == "('-',)"


def test_forget(backend: Any, app: Any) -> None:
    backend.store_result("f", 1, states.SUCCESS)
    assert backend.get_state("f") == "SUCCESS"
    result_of("f", app).forget()
    assert backend.get_state("f") == "PENDING"
    assert not TaskResult.objects.exists()


def test_a_result_survives_the_rollback_of_its_caller(backend: Any) -> None:
    with transaction.atomic():
        backend.store_result("kept", 1, states.SUCCESS)
        transaction.set_rollback(True)
    assert backend.get_result("kept") == 1


def test_groups_nest(backend: Any, app: Any) -> None:
    inner = group_of("inner", [result_of("c", app)], app)
    group = group_of("outer", [result_of("a", app), inner], app)
    group.save()
    assert GroupRow.objects.count() == 1
    restored = GroupResult.restore("outer", app=app)
    assert restored.as_tuple() == group.as_tuple()
    restored.delete()
    assert GroupResult.restore("outer", app=app) is None


def test_a_group_is_read_in_few_queries(
    backend: Any, app: Any, django_assert_max_num_queries: Any
) -> None:
    ids = [f"m{n}" for n in range(10)]
    for n, task_id in enumerate(ids):
        backend.store_result(task_id, n, states.SUCCESS)
    group = group_of("g", [result_of(task_id, app) for task_id in ids], app)
    with django_assert_max_num_queries(1):
        assert group.get(timeout=5) == list(range(10))


def test_a_wait_ends(backend: Any, app: Any) -> None:
    with pytest.raises(Timeout):
        result_of("never", app).get(timeout=0.05)
    with pytest.raises(Timeout):
        list(backend.get_many(["never"], timeout=0.05))


class Published(list[Any]):
    """What a chord's body was called with."""


@pytest.fixture
def published(app: Any, monkeypatch: pytest.MonkeyPatch) -> Published:
    calls = Published()

    def send(name: str, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        calls.append((options.get("task_id"), list(args)))
        return result_of(options["task_id"], app)

    monkeypatch.setattr(app, "send_task", send)
    return calls


def start_chord(app: Any, parts: list[str]) -> Any:
    header = group_of("chord", [result_of(part, app) for part in parts], app)
    body = app.tasks["total"].s()
    body.freeze()
    body["chord_size"] = len(parts)
    app.backend.apply_chord((header.id, header.results), body)
    return body


def end_part(app: Any, body: Any, part: str, value: int, **values: Any) -> None:
    known = request(part, group="chord", chord=body, **values)
    app.backend.mark_as_done(part, value, request=known)


def test_a_chord_calls_its_body_once_however_often_parts_come(
    app: Any, published: Published
) -> None:
    body = start_chord(app, ["a", "b", "c"])
    end_part(app, body, "a", 1)
    end_part(app, body, "a", 1)
    end_part(app, body, "c", 3)
    assert published == []
    end_part(app, body, "b", 2, ignore_result=True)
    end_part(app, body, "b", 2)
    end_part(app, body, "a", 1)
    assert published == [(body.id, [[1, 2, 3]])]
    assert not ChordCounter.objects.exists()
    assert not ChordPart.objects.exists()


def test_a_part_and_its_count_are_one_transaction(
    app: Any, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = start_chord(app, ["a"])
    with monkeypatch.context() as patched:
        patched.setattr(ChordCounter.objects, "finish", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            end_part(app, body, "a", 4)
    # Before the commit: nobody saw the part end, and all is done again.
    assert published == [(body.id, [[4]])]
    assert app.backend.get_state("a") == "PENDING"
    assert ChordCounter.objects.get().ended == 0
    end_part(app, body, "a", 4)
    assert published == [(body.id, [[4]])] * 2
    assert app.backend.get_state("a") == "SUCCESS"
    assert not ChordCounter.objects.exists()


def test_a_part_takes_four_statements(
    app: Any, published: Published, django_assert_max_num_queries: Any
) -> None:
    body = start_chord(app, [f"p{n}" for n in range(20)])
    for n in range(19):
        with django_assert_max_num_queries(6):  # BEGIN and COMMIT besides
            end_part(app, body, f"p{n}", n)
    assert published == []


def test_what_a_task_stores_itself_is_no_end(app: Any, published: Published) -> None:
    body = start_chord(app, ["a"])
    known = request("a", group="chord", chord=body)
    app.backend.store_result("a", {"step": 1}, states.FAILURE, request=known)
    assert (published, ChordCounter.objects.get().ended) == ([], 0)
    app.backend.mark_as_done("a", 5, request=known)
    assert published == [(body.id, [[5]])]


def test_a_part_that_fails_fails_the_body(app: Any, published: Published) -> None:
    body = start_chord(app, ["a", "b"])
    end_part(app, body, "a", 1)
    known = request("b", group="chord", chord=body)
    app.backend.mark_as_failure("b", ValueError("no"), request=known)
    assert published == []
    failure = result_of(body.id, app)
    assert failure.state == "FAILURE"
    assert "Dependency b raised ValueError('no')" in str(failure.result)
    assert not ChordCounter.objects.exists()


def test_errbacks_run_after_the_transaction(app: Any, published: Published) -> None:
    seen: list[Any] = []

    @app.task(name="failed", shared=False)  # type: ignore[untyped-decorator]
    def failed(request: Any, error: Any, traceback: Any) -> None:
        seen.append((request.id, connection.in_atomic_block, app.backend.get_state("a")))
        raise ZeroDivisionError

    body = start_chord(app, ["a"])
    body.on_error(failed.s())
    known = request("a", group="chord", chord=body)
    app.backend.mark_as_failure("a", ValueError("no"), request=known)
    assert seen == [(body.id, False, "FAILURE")]
    assert app.backend.get_state(body.id) == "FAILURE"


@pytest.mark.parametrize("broker", ["dead", "silent"])
def test_a_broker_that_takes_nothing_fails_the_body_soon(
    app: Any, redis_server: Any, monkeypatch: pytest.MonkeyPatch, broker: str
) -> None:
    monkeypatch.setattr(publishing, "STEP_SECONDS", 0.2)
    monkeypatch.setattr(publishing, "TRY_SECONDS", 0.5)
    app.conf.broker_url = redis_server.url
    body = start_chord(app, ["a"])
    if broker == "dead":
        redis_server.stop()
    else:
        redis_server.pause()
    begun = clock.monotonic()
    end_part(app, body, "a", 1)
    assert clock.monotonic() - begun < 20
    assert app.backend.get_state("a") == "SUCCESS"
    assert "Callback error" in str(result_of(body.id, app).result)
    assert not ChordCounter.objects.exists()


def test_a_backend_of_single_tasks_warns_in_groups() -> None:
    app = make_app(result_backend="cache+memory://")
    bound = DatabaseBackend(app=app)
    known = request("w", group="g")
    known.task = f"limits-{uuid()[:4]}"
    with pytest.warns(BackendLimitWarning, match=r"limits-\w+ keeps its result in DatabaseBackend"):
        bound.store_result("w", 1, states.SUCCESS, request=known)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bound.store_result("v", 1, states.SUCCESS, request=request("v"))
    assert result_of("w", app, bound).get(timeout=1) == 1


def test_cleanup_deletes_what_is_old(app: Any) -> None:
    backend = DatabaseBackend(app, expires=timedelta(hours=1))
    old: Any = datetime.now(UTC) - timedelta(hours=2)
    for task_id in ("old", "new"):
        backend.store_result(task_id, 1, states.SUCCESS)
    backend.save_group("g", group_of("g", [], app))
    ChordCounter.objects.start("c", 2, "[]")
    ChordCounter.objects.end_part("c", "t")
    TaskResult.objects.filter(task_id="old").update(date_done=old)
    GroupRow.objects.update(date_done=old)
    ChordCounter.objects.update(date_created=old)
    ChordPart.objects.update(date_created=old)
    never = DatabaseBackend(app, expires=0)
    never.cleanup()
    assert TaskResult.objects.count() == 2
    backend.cleanup()
    assert list(TaskResult.objects.values_list("task_id", flat=True)) == ["new"]
    assert not GroupRow.objects.exists()
    assert not ChordCounter.objects.exists()
    assert not ChordPart.objects.exists()
