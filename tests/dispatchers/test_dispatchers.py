"""Finding dispatchers by name, and what is special about those without a broker."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import django
import pytest
from django.db import connections

from async_cache import conf, threads, worker
from async_cache.dispatchers import DISPATCHERS, get_dispatcher
from async_cache.dispatchers import thread as thread_module
from async_cache.dispatchers.thread import MAX_THREADS, ThreadDispatcher
from async_cache.exceptions import ConfigurationError, DispatchFailed
from async_cache.validators import DISPATCHER_NAMES
from tests.dispatchers.support import SECONDS, eventually
from tests.dispatchers.test_celery import a_refresh


class Gate:
    """Stands in for the refresh itself: holds each one until it is opened."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.running: list[str] = []
        self.done: list[str] = []
        self.error: Exception | None = None

    def has_begun(self, count: int) -> bool:
        return len(self.running) == count

    def in_child(self, message: Any) -> dict[str, int]:
        self.done.append("child")
        return {}

    def run(self, message: Any) -> dict[str, int]:
        self.running.append(threading.current_thread().name)
        assert self.opened.wait(SECONDS)
        connections["default"].ensure_connection()
        if self.error is not None:
            raise self.error
        self.done.append(message.items[0].digest)
        return {}


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    made = Gate()
    monkeypatch.setattr(worker, "run_message", made.run)
    return made


@pytest.fixture
def pool() -> Iterator[ThreadDispatcher]:
    made = ThreadDispatcher()
    yield made
    made.close()
    made.drain(SECONDS)


# --- by name ----------------------------------------------------------------------------------


def test_every_name_that_settings_take_is_there() -> None:
    assert set(DISPATCHERS) == set(DISPATCHER_NAMES)


@pytest.mark.parametrize("name", sorted(DISPATCHERS))
def test_a_dispatcher_knows_its_name(name: str) -> None:
    if name == "django_tasks" and django.VERSION < (6, 0):
        with pytest.raises(ConfigurationError, match=r"Upgrade to Django 6\.0"):
            get_dispatcher(name)
        return
    found = get_dispatcher(name)
    assert found.name == name
    assert get_dispatcher(name) is found


def test_a_dotted_path_names_a_dispatcher_of_the_project() -> None:
    assert get_dispatcher("tests.dispatchers.support.Recorder").name == "recorder"


@pytest.mark.parametrize(
    "path", ["tests.missing.Dispatcher", "tests.dispatchers.support.Runtime", "nothing"]
)
def test_what_is_no_dispatcher_is_refused_by_name(path: str) -> None:
    with pytest.raises(ConfigurationError, match=path):
        get_dispatcher(path)


def test_changed_settings_make_new_ones(settings: Any) -> None:
    before = get_dispatcher("thread")
    settings.ASYNC_CACHE = {"DISPATCHER": "immediate"}
    assert conf.get_settings().dispatcher == "immediate"
    assert get_dispatcher("thread") is not before


# --- thread -----------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_the_pool_is_bounded_and_so_is_its_backlog(
    gate: Gate, pool: ThreadDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread_module, "MAX_BACKLOG", 3)
    for _ in range(MAX_THREADS):
        begun = len(gate.running)
        pool.dispatch(a_refresh())
        eventually(functools.partial(gate.has_begun, begun + 1))
    for _ in range(3):
        pool.dispatch(a_refresh())
    with pytest.raises(DispatchFailed):
        pool.dispatch(a_refresh())
    assert len(gate.running) == MAX_THREADS
    gate.opened.set()
    assert pool.drain(SECONDS)
    assert len(gate.done) == MAX_THREADS + 3


@pytest.mark.django_db(transaction=True)
def test_an_error_ends_no_thread(
    gate: Gate, pool: ThreadDispatcher, caplog: pytest.LogCaptureFixture
) -> None:
    gate.error = ZeroDivisionError("secret")
    gate.opened.set()
    pool.dispatch(a_refresh())
    assert pool.drain(SECONDS)
    assert "tests.Job digest1 ended with ZeroDivisionError" in caplog.text
    assert "secret" not in caplog.text
    gate.error = None
    for _ in range(3):
        pool.dispatch(a_refresh())
    assert pool.drain(SECONDS)
    assert len(gate.done) == 3


@pytest.mark.django_db(transaction=True)
def test_each_refresh_gives_its_connection_back(
    pool: ThreadDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []

    def run(message: Any) -> dict[str, int]:
        connections["default"].ensure_connection()
        opened.append(connections["default"])
        return {}

    monkeypatch.setattr(worker, "run_message", run)
    pool.dispatch(a_refresh())
    assert pool.drain(SECONDS)
    assert [connection.connection for connection in opened] == [None]


def test_draining_waits_no_longer_than_it_may(gate: Gate, pool: ThreadDispatcher) -> None:
    pool.dispatch(a_refresh())
    assert not pool.drain(0.05)
    gate.opened.set()


def test_a_forked_child_has_a_pool_of_its_own(pool: ThreadDispatcher, gate: Gate) -> None:
    pool.dispatch(a_refresh())
    eventually(lambda: gate.running)
    with pool._changed:
        pid = os.fork()
        if pid == 0:
            try:
                worker.run_message = gate.in_child
                pool.dispatch(a_refresh())
                os._exit(0 if pool.drain(SECONDS) and gate.done == ["child"] else 1)
            finally:
                os._exit(2)
    gate.opened.set()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.django_db(transaction=True)
def test_without_threads_the_refresh_runs_here(
    gate: Gate, pool: ThreadDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "supported", lambda: False)
    gate.opened.set()
    pool.dispatch(a_refresh())
    assert gate.running == [threading.current_thread().name]


EXIT = """
import os, time
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
import django
django.setup()
from async_cache import worker
from async_cache.dispatchers import get_dispatcher
from tests.dispatchers.test_celery import a_refresh
def run(message):
    time.sleep(0.1)
    print("done", flush=True)
worker.run_message = run
get_dispatcher("thread").dispatch(a_refresh())
"""


def test_the_end_of_the_process_lets_a_refresh_finish() -> None:
    done = subprocess.run(
        [sys.executable, "-c", EXIT], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"
