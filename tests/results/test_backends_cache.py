"""The backend over caches of Django: records, groups, and chords without counters."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import Mock

import pytest
from celery import states, uuid
from celery.app.task import Context
from celery.result import GroupResult
from django.core.cache import caches

from async_cache.exceptions import ConfigurationError
from async_cache.results import get_layer
from async_cache.results.backends import CacheBackend, cache
from async_cache.results.exceptions import RecordRejected, TaskFailed
from async_cache.results.layers import Layer
from tests.results.celery_support import group_of, make_app, result_of


@pytest.fixture
def app(layer: Layer, settings: Any) -> Any:
    """Return an app for the alias of each layer in turn."""
    alias: str = layer.alias  # type: ignore[attr-defined]
    settings.ASYNC_CACHE = {**settings.ASYNC_CACHE, "RESULTS": {"CACHE": alias}}
    app = make_app(result_backend="async-cache")

    @app.task(name="total", shared=False)
    def total(values: list[int]) -> int:
        return sum(values)

    app.finalize()
    caches[alias].clear()
    assert type(app.backend) is CacheBackend
    return app


def request(task_id: str, **values: Any) -> Any:
    return Context({"id": task_id, "task": "add", "hostname": "w@here", **values})


def test_results_and_errors_come_back(app: Any) -> None:
    values: list[Any] = [None, 0, "", [], {"a": 1}]
    for value in values:
        task_id = uuid()
        app.backend.mark_as_done(task_id, value, request=request(task_id))
        assert result_of(task_id, app).get(timeout=1) == value
    app.backend.mark_as_failure("f", ZeroDivisionError("by zero"), traceback="Traceback …")
    assert isinstance(app.backend.get_result("f"), ZeroDivisionError)
    assert app.backend.get_traceback("f") == "Traceback …"
    app.backend._store_result("x", {"exc_module": "os", "exc_type": "system"}, states.FAILURE)
    assert isinstance(app.backend.get_result("x"), TaskFailed)
    assert app.backend.task_result_exists("f")
    app.backend.forget("f")
    assert not app.backend.task_result_exists("f")
    assert app.backend.get_state("f") == "PENDING"


def test_records_are_those_of_the_result_store(app: Any) -> None:
    app.backend.store_result("r", 7, states.SUCCESS, request=request("r", retries=1))
    record: Any = get_layer(cached=True).get("r")
    assert (record.state, record.value, record.name, record.retries) == ("SUCCESS", b"7", "add", 1)
    app.backend.store_result("r", None, states.STARTED, request=request("r", retries=5))
    assert app.backend.get_result("r") == 7


def test_groups(app: Any) -> None:
    for n in range(3):
        app.backend.store_result(f"m{n}", n, states.SUCCESS)
    inner = group_of("inner", [result_of("m2", app)], app)
    group = group_of("g", [result_of("m0", app), result_of("m1", app), inner], app)
    group.save()
    restored = GroupResult.restore("g", app=app)
    assert restored is not None
    assert restored.as_tuple() == group.as_tuple()
    assert restored.get(timeout=5) == [0, 1, [2]]
    restored.delete()
    assert GroupResult.restore("g", app=app) is None


@pytest.fixture
def published(app: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the list of what bodies are called with."""
    calls: list[Any] = []

    def send(name: str, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        calls.append((options.get("task_id"), list(args)))
        return result_of(options["task_id"], app)

    monkeypatch.setattr(app, "send_task", send)
    return calls


def start_chord(app: Any, parts: list[str]) -> Any:
    header = group_of("chord", [result_of(part, app) for part in parts], app)
    body = app.tasks["total"].s()
    body.freeze()
    app.backend.apply_chord((header.id, header.results), body)
    return body


def end_part(app: Any, body: Any, part: str, value: int, **values: Any) -> None:
    known = request(part, group="chord", chord=body, **values)
    app.backend.mark_as_done(part, value, request=known)


def test_a_chord_calls_its_body_once(app: Any, published: list[Any]) -> None:
    body = start_chord(app, ["a", "b", "c"])
    end_part(app, body, "a", 1)
    end_part(app, body, "a", 1)
    end_part(app, body, "c", 3)
    assert published == []
    end_part(app, body, "b", 2, ignore_result=True)
    end_part(app, body, "b", 2)
    assert published == [(body.id, [[1, 2, 3]])]
    assert app.backend.cache_backend.get("chord-unlock-chord:header") is None
    assert app.backend.layer.group("chord-unlock-chord:parts") == []
    assert [record.id for record in app.backend.layer.get_many(["a", "b", "c"])] == ["a", "b", "c"]


@pytest.mark.parametrize("step", ["_may_call", "_call", "save"])
def test_a_killed_part_has_not_ended(
    app: Any, published: list[Any], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setattr(cache, "CHORD_LEASE", 1)
    body = start_chord(app, ["a", "b"])
    end_part(app, body, "b", 2)
    with monkeypatch.context() as patched:
        patched.setattr(app.backend, step, Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            end_part(app, body, "a", 4)
    assert app.backend.get_state("a") == "PENDING"
    if step == "_call":
        # Who set out to call the body is not followed by another part, but by its own message.
        end_part(app, body, "b", 2)
        assert published == []
    end_part(app, body, "a", 4)
    assert published == [(body.id, [[4, 2]])]
    assert app.backend.get_state("a") == "SUCCESS"


def test_a_failed_part_fails_the_body(app: Any, published: list[Any]) -> None:
    body = start_chord(app, ["a", "b"])
    end_part(app, body, "a", 1)
    known = request("b", group="chord", chord=body)
    app.backend.mark_as_failure("b", ValueError("no"), request=known)
    assert published == []
    assert "Dependency b raised ValueError('no')" in str(result_of(body.id, app).result)


@pytest.fixture
def on_each_thread() -> Callable[..., list[Any]]:
    """Run a function once for each argument, all at once, and close its connections."""
    from async_cache.threads import close_connections

    def run(function: Callable[[Any], Any], arguments: list[Any]) -> list[Any]:
        def one(argument: Any) -> Any:
            try:
                return function(argument)
            finally:
                close_connections()

        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(one, arguments))

    return run


def test_parts_that_end_at_once(
    app: Any, published: list[Any], on_each_thread: Callable[..., list[Any]]
) -> None:
    parts = [f"p{n}" for n in range(12)]
    body = start_chord(app, parts)
    on_each_thread(lambda n: end_part(app, body, parts[n % 12], n % 12), list(range(24)))
    assert published == [(body.id, [list(range(12))])]


def test_a_pickle_that_was_not_sealed_here_is_not_loaded(app: Any) -> None:
    backend = CacheBackend(app=app, serializer="pickle")
    backend.store_result("p", (1, 2), states.SUCCESS)
    assert backend.get_result("p") == (1, 2)
    assert backend.decode(backend.encode({"a": 1})) == {"a": 1}
    with pytest.raises(RecordRejected):
        backend.decode(b"0" * 16 + pickle.dumps(1))


@pytest.mark.parametrize("layer", ["locmem"], indirect=True)
def test_the_alias_of_the_url(app: Any, settings: Any) -> None:
    other: Any = make_app(result_backend="async-cache://file")
    assert other.backend.alias == "file"
    named: Any = make_app(result_backend="async-cache", cache_backend="dummy")
    assert named.backend.alias == "dummy"
    assert app.backend.alias == "default"


@pytest.mark.parametrize(
    "conf",
    [
        {"result_backend": "async-cache://databse"},
        {"result_backend": "async-cache", "cache_backend": "databse"},
    ],
)
def test_a_misspelt_alias_is_refused(conf: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r"'databse'.*Did you mean 'database'"):
        make_app(**conf).backend  # noqa: B018


def test_the_url_of_another_backend_is_passed_over() -> None:
    app: Any = make_app(result_backend="async-cache", cache_backend="memcached://127.0.0.1:1/")
    assert app.backend.alias == "default"
