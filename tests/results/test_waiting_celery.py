"""`AsyncResult.get` and `GroupResult.get` on our backends are told as `result` is."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery.exceptions import TimeoutError as CeleryTimeoutError
from django.core.cache import caches
from django.db import connections

from async_cache.results import waiting
from async_cache.results.waiting import listener
from tests.results.celery_support import group_of, make_app, result_of
from tests.results.test_waiting import NEVER, PATIENCE, connected, eventually, registered

on_postgres = pytest.mark.django_db(databases=["default", "postgres"], transaction=True)

KINDS = [
    pytest.param("async-cache://redis", id="redis"),
    pytest.param("async-cache://default", id="locmem"),
    pytest.param("async-cache-db", id="rows-postgres", marks=on_postgres),
    pytest.param("async-cache-db:sqlite", id="rows-sqlite", marks=on_postgres),
]


class ToPostgres:
    """Sends the rows of results to PostgreSQL."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        return "postgres" if model._meta.app_label == "async_cache_results" else None

    db_for_write = db_for_read


@pytest.fixture(params=KINDS)
def app(request: pytest.FixtureRequest, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    if "redis" in request.param:
        request.getfixturevalue("redis_caches")
        caches["redis"].clear()
    if request.param == "async-cache-db":
        settings.DATABASE_ROUTERS = [ToPostgres()]
    if "sqlite" not in request.param:
        # The message of the store is the only way to be told; LocMem is asked.
        monkeypatch.setattr(listener, "LOOK_SECONDS", NEVER)
    monkeypatch.setattr("async_cache.results.backends.waiting.OWN_LOOK", NEVER)
    return make_app(result_backend=request.param.partition(":sq")[0])


@pytest.fixture
def later() -> Iterator[Callable[[Callable[[], Any]], Callable[[], Any]]]:
    """Return a function that runs another in a thread, and returns how to get its result."""
    threads: list[threading.Thread] = []

    def begin(work: Callable[[], Any]) -> Callable[[], Any]:
        answer: list[Any] = []

        def run() -> None:
            try:
                answer.append(work())
            finally:
                connections.close_all()

        def join() -> Any:
            thread.join(PATIENCE)
            assert answer, "no answer"
            return answer[0]

        thread = threading.Thread(target=run)
        threads.append(thread)
        thread.start()
        return join

    yield begin
    for thread in threads:
        thread.join(PATIENCE)
    assert waiting.count_waiting() == 0


def tells(app: Any) -> bool:
    return bool(app.backend.listened_layer.tells)


def test_async_result_is_told(app: Any, later: Any) -> None:
    looks: list[str] = []
    intervals: list[float] = []
    backend = app.backend
    load = backend._get_task_meta_for

    def look(task_id: str) -> Any:
        looks.append(task_id)
        return load(task_id)

    backend._get_task_meta_for = look
    told = later(
        lambda: backend.wait_for(
            "a", timeout=PATIENCE, interval=0.01, on_interval=lambda: intervals.append(0)
        )
    )
    value = later(lambda: result_of("b", app, backend).get(timeout=PATIENCE, interval=0.01))
    registered(2)
    if tells(app):
        connected()
    # In which nobody asks.
    eventually(lambda: len(intervals) >= 5, "no intervals")
    for task_id in ("a", "b"):
        backend.store_result(task_id, 7, "SUCCESS")
    assert (told()["result"], value()) == (7, 7)
    assert sorted(looks) == ["a", "a", "b", "b"]


def test_group_result_is_told_of_each(app: Any, later: Any) -> None:
    seen: list[Any] = []

    def gather() -> Any:
        group = group_of("g", [result_of(f"m{n}", app) for n in range(3)], app)
        for task_id, meta in group.iter_native(timeout=PATIENCE):
            assert meta["result"] == {"m2": "two"}.get(task_id, task_id)
            seen.append(task_id)
        return True

    app.backend.store_result("m2", "two", "SUCCESS")
    found = later(gather)
    registered()
    if tells(app):
        connected()
    eventually(lambda: "m2" in seen, "not found")
    for left, name in ((1, "m0"), (0, "m1")):
        app.backend.store_result(name, name, "SUCCESS")
        eventually(lambda name=name: name in seen, "not told")  # type: ignore[misc]
        # What has ended is waited for no more.
        eventually(lambda left=left: waiting.count_waiting() == left, "still waited for")  # type: ignore[misc]
    assert found()
    assert seen == ["m2", "m0", "m1"]


def test_on_interval_timeout_and_max_iterations_are_celerys(app: Any) -> None:
    calls: list[float] = []

    def note() -> None:
        calls.append(time.monotonic())

    started = time.monotonic()
    with pytest.raises(CeleryTimeoutError):
        app.backend.wait_for("never", timeout=0.2, interval=0.05, on_interval=note)
    assert time.monotonic() - started >= 0.2
    assert 2 <= len(calls) <= 6
    calls.clear()
    with pytest.raises(CeleryTimeoutError):
        list(app.backend.get_many(["never"], timeout=0.2, interval=0.05, on_interval=note))
    assert 2 <= len(calls) <= 6
    calls.clear()
    many = app.backend.get_many(["never"], interval=0.01, on_interval=note, max_iterations=3)
    assert list(many) == []
    assert len(calls) == 2
    assert waiting.count_waiting() == 0


def test_an_error_of_on_interval_ends_the_wait(app: Any) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        app.backend.wait_for("never", timeout=PATIENCE, on_interval=fail)
    assert waiting.count_waiting() == 0


def test_who_stops_reading_leaves_nothing(app: Any) -> None:
    app.backend.store_result("a", 1, "SUCCESS")
    many = app.backend.get_many(["a", "never"])
    assert next(many)[0] == "a"
    # Nobody waits before all was looked at.
    assert waiting.count_waiting() == 0
    # Called between the first look and the wait.
    more = app.backend.get_many(
        ["b", "never"], on_interval=lambda: app.backend.store_result("b", 1, "SUCCESS")
    )
    assert next(more)[0] == "b"
    assert waiting.count_waiting() == 2
    more.close()
    many.close()
    assert waiting.count_waiting() == 0


GREEN = """
from gevent import monkey
monkey.patch_all()
import django, gevent
django.setup()
from async_cache.results.waiting import registry
from tests.results.celery_support import make_app, result_of
app = make_app(result_backend="async-cache://default")
backend, sleeps = app.backend, []
sleep = backend._sleep
backend._sleep = lambda seconds: (sleeps.append(seconds), sleep(seconds))
wait = gevent.spawn(lambda: result_of("a", app, backend).get(timeout=20))
gevent.sleep(0.05)
app.backend.store_result("a", 5, "SUCCESS")
assert wait.get(timeout=10) == 5
assert sleeps and not registry._listeners.by_layer
"""


def test_green_threads_keep_celerys_pauses() -> None:
    pytest.importorskip("gevent")
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
    command = [sys.executable, "-c", GREEN]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
