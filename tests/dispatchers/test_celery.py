"""Publishing with Celery: silent brokers, what the message shows, whose app, whose connection."""

from __future__ import annotations

import ast
import inspect
import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis

from async_cache import clock, publisher, signals
from async_cache.dispatchers import get_dispatcher
from async_cache.dispatchers.base import Refresh
from async_cache.dispatchers.celery import CeleryDispatcher
from async_cache.exceptions import DispatchFailed
from async_cache.keys import Call
from async_cache.messages import RefreshItem, RefreshMessage, open_message
from async_cache.options import check_options
from async_cache.secret_keys import get_ring
from async_cache.tasks import refresh as refresh_task
from tests.celery_app import app
from tests.dispatchers.support import Runtime, eventually, heard
from tests.lateness import Lateness
from tests.servers import RedisServer
from tests.workers import PATIENCE, Broker, connected

BOUND = 2.0
"""Seconds in which a publish to a silent broker has ended: a few times ``PUBLISH_TIMEOUT``."""


def a_refresh(**changes: Any) -> Refresh:
    token = uuid4().bytes
    item = RefreshItem(Call(("secret",), {}), "digest1", token, b"\0" * 8)
    message = RefreshMessage("tests.Job", 1, Call((), {}), (item,), expires_at=clock.now() + 60)
    return Refresh(str(UUID(bytes=token)), message, summary="tests.Job digest1", **changes)


@contextmanager
def configured(**options: Any) -> Iterator[None]:
    before = {name: app.conf[name] for name in options}
    app.conf.update(options)
    app.amqp.flush_routes()
    vars(app.amqp).pop("router", None)
    try:
        yield
    finally:
        app.conf.update(before)
        app.amqp.flush_routes()
        vars(app.amqp).pop("router", None)


@pytest.fixture
def dispatcher() -> Iterator[CeleryDispatcher]:
    made = CeleryDispatcher()
    yield made
    made.close()


@pytest.fixture
def broker(redis_url: str) -> Iterator[redis.Redis]:
    with connected(Broker(redis_url)), redis.Redis.from_url(redis_url) as client:
        yield client


def delivered(client: redis.Redis, queue: str = "celery") -> list[dict[str, Any]]:
    messages: list[Any] = client.lrange(queue, 0, -1)
    return [json.loads(message) for message in messages]


# --- the message ------------------------------------------------------------------------------


def test_a_message_names_the_task_and_shows_no_argument(
    dispatcher: CeleryDispatcher, broker: redis.Redis
) -> None:
    refresh = a_refresh(expires=100.0, fetch_timeout=7.5)
    dispatcher.dispatch(refresh)
    (message,) = delivered(broker)
    headers = message["headers"]
    assert headers["task"] == "async_cache.refresh"
    assert headers["id"] == refresh.task_id
    assert headers["timelimit"] == [18, 8]
    assert headers["ignore_result"] is True
    assert headers["argsrepr"] == "(tests.Job digest1)"
    assert headers["kwargsrepr"] == "{}"
    assert headers["expires"]
    assert message["content-type"] == "application/json"
    assert "secret" not in json.dumps(headers)


def test_the_body_is_the_sealed_message(dispatcher: CeleryDispatcher, broker: redis.Redis) -> None:
    import base64

    refresh = a_refresh()
    dispatcher.dispatch(refresh)
    (message,) = delivered(broker)
    (sealed,), _, _ = json.loads(base64.b64decode(message["body"]))
    assert open_message(sealed, get_ring()).items == refresh.message.items


def test_the_jobs_queue_wins_over_the_routes(
    dispatcher: CeleryDispatcher, broker: redis.Redis
) -> None:
    with configured(task_routes={"async_cache.refresh": {"queue": "routed"}}):
        dispatcher.dispatch(a_refresh())
        dispatcher.dispatch(a_refresh(queue="slow"))
    assert [len(delivered(broker, queue)) for queue in ("celery", "routed", "slow")] == [0, 1, 1]


def test_task_options_reach_the_message(dispatcher: CeleryDispatcher, broker: redis.Redis) -> None:
    dispatcher.dispatch(a_refresh(options={"priority": 3}))
    queues: Any = broker.keys("celery*")
    (message,) = [found for queue in queues for found in delivered(broker, queue.decode())]
    assert message["properties"]["priority"] == 3


def test_the_apps_own_pool_is_left_alone(dispatcher: CeleryDispatcher, broker: redis.Redis) -> None:
    dispatcher.dispatch(a_refresh())
    assert app._pool is None  # type: ignore[attr-defined]


# --- brokers that do not answer ---------------------------------------------------------------


@pytest.mark.shipped_timeouts
@pytest.mark.parametrize("connected_before", [False, True])
def test_a_silent_redis_holds_up_nobody_and_is_used_again_within_two_seconds(
    redis_server: RedisServer, connected_before: bool
) -> None:
    runtime = Runtime(get_dispatcher("celery"))
    with (
        connected(Broker(redis_server.url)),
        redis.Redis.from_url(redis_server.url) as client,
        heard(signals.dispatch_failed) as failures,
        heard(signals.dispatch_recovered) as recoveries,
    ):
        get_dispatcher("celery").prepare()
        if connected_before:
            publisher.submit(runtime.request("before"))
            eventually(lambda: delivered(client))
            client.delete("celery")
        redis_server.pause()
        try:
            took = []
            for number in range(50):
                request = runtime.request(f"key{number}")
                start = time.perf_counter()
                assert publisher.submit(request)
                took.append(time.perf_counter() - start)
            assert sorted(took)[25] < 0.05, "PUBLISH_TIMEOUT is much longer"
            start = time.monotonic()
            with Lateness() as late:
                eventually(lambda: failures)
            assert time.monotonic() - start < BOUND + late.seconds
            eventually(lambda: all(runtime.lease(f"key{n}") is None for n in range(50)))
        finally:
            redis_server.resume()
        start = time.monotonic()
        with Lateness() as late:
            eventually(lambda: recoveries)
        assert time.monotonic() - start < 2.0 + late.seconds
        # What a frozen server had in its socket buffer it may have taken as well.
        eventually(lambda: len({message["headers"]["id"] for message in delivered(client)}) >= 50)
        assert all(runtime.lease(f"key{n}") for n in range(50))
    assert failures[0]["error_type"].endswith(("OperationalError", "TimeoutError"))


@pytest.fixture
def silent() -> Iterator[tuple[str, int]]:
    """A server that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()


@pytest.mark.shipped_timeouts
@pytest.mark.parametrize("scheme", ["redis", "pyamqp", "sentinel"])
@pytest.mark.parametrize("hosts", [1, 3])
def test_a_publish_to_a_silent_broker_is_bounded(
    dispatcher: CeleryDispatcher, silent: tuple[str, int], scheme: str, hosts: int
) -> None:
    url = ";".join([f"{scheme}://127.0.0.1:{silent[1]}//"] * hosts).replace("//;", "/0;")
    options = {"master_name": "mymaster"} if scheme == "sentinel" else {}
    with connected(Broker(url if scheme == "pyamqp" else url.rstrip("/"), options)):
        dispatcher.prepare()
        for _ in range(2):
            start = time.monotonic()
            with Lateness() as late, pytest.raises(DispatchFailed):
                dispatcher.dispatch(a_refresh())
            assert time.monotonic() - start < BOUND * hosts + late.seconds


def test_a_broker_that_is_not_there_fails_at_once(
    dispatcher: CeleryDispatcher, silent: tuple[str, int]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with connected(Broker(f"redis://127.0.0.1:{port}/0")):
        dispatcher.prepare()
        start = time.monotonic()
        with pytest.raises(DispatchFailed) as caught:
            dispatcher.dispatch(a_refresh())
        assert time.monotonic() - start < PATIENCE["PUBLISH_TIMEOUT"] / 2
        assert caught.value.__cause__ is not None


def test_a_restarted_broker_is_found_again(
    dispatcher: CeleryDispatcher, redis_server: RedisServer
) -> None:
    with connected(Broker(redis_server.url)):
        dispatcher.dispatch(a_refresh())
        redis_server.kill()
        with pytest.raises(DispatchFailed):
            dispatcher.dispatch(a_refresh())
        redis_server.start()
        dispatcher.dispatch(a_refresh())
        with redis.Redis.from_url(redis_server.url) as client:
            assert len(delivered(client)) == 1


def test_a_broker_that_refuses_one_message_is_not_down(
    dispatcher: CeleryDispatcher, redis_server: RedisServer
) -> None:
    with (
        connected(Broker(redis_server.url)),
        redis.Redis.from_url(redis_server.url) as client,
    ):
        client.set("full", "full")
        client.config_set("maxmemory", "1")
        with pytest.raises(Exception, match=r"OOM|memory") as caught:
            dispatcher.dispatch(a_refresh())
        assert not isinstance(caught.value, DispatchFailed)
        client.config_set("maxmemory", "0")
        dispatcher.dispatch(a_refresh())
        assert len(delivered(client)) == 1


# --- processes, threads, apps -----------------------------------------------------------------


def test_a_forked_child_leaves_its_parents_connection_alone(
    dispatcher: CeleryDispatcher, broker: redis.Redis
) -> None:
    dispatcher.dispatch(a_refresh())
    link = dispatcher._link
    pid = os.fork()
    if pid == 0:
        try:
            dispatcher.dispatch(a_refresh())
            os._exit(0 if dispatcher._link is not link else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    dispatcher.dispatch(a_refresh())
    assert dispatcher._link is link, "the same connection, and it still works"
    assert len(delivered(broker)) == 3


def test_any_thread_finds_the_projects_app(broker: redis.Redis) -> None:
    made = CeleryDispatcher()  # has never run in the thread that made the app
    thread = threading.Thread(target=made.dispatch, args=(a_refresh(),))
    thread.start()
    thread.join(10)
    made.close()
    assert len(delivered(broker)) == 1


PRELUDE = """
import os, sys, threading
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
import django
from django.conf import settings
# The core alone: the other apps import Celery.
settings.INSTALLED_APPS = ["async_cache"]
django.setup()
"""

SEVERAL_APPS = """
from celery import Celery
apps = [Celery("one", fixups=[]), Celery("two", fixups=[])]  # no Django fixup, no default
from async_cache.dispatchers import get_dispatcher
from async_cache.exceptions import ConfigurationError
def use():
    try:
        get_dispatcher("celery").inline
    except ConfigurationError as error:
        print(error)
thread = threading.Thread(target=use)
thread.start()
thread.join()
apps[1].set_default()
get_dispatcher("celery").close()
thread = threading.Thread(target=lambda: print(get_dispatcher("celery")._find_app().main))
thread.start()
thread.join()
"""

IMPORTS = """
importers = []
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "celery":
            importers.append(threading.current_thread().name)
sys.meta_path.insert(0, Watch())
from async_cache import publisher
from async_cache.dispatchers import get_dispatcher
from tests.dispatchers.support import Runtime, eventually
publisher.submit(Runtime(get_dispatcher("celery")).request("a"))
eventually(lambda: importers, 20)
print(importers)
"""


def run(script: str) -> str:
    command = [sys.executable, "-c", PRELUDE + script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_several_apps_are_an_error_that_says_what_to_do() -> None:
    error, chosen = run(SEVERAL_APPS).strip().splitlines()
    assert "(one, two)" in error
    assert "set_default()" in error
    assert chosen == "two"


def test_celery_is_imported_in_the_publishers_thread() -> None:
    assert run(IMPORTS).strip().startswith("['async_cache.publisher'")


# --- the task ---------------------------------------------------------------------------------


def test_a_forged_message_is_dropped_and_counted() -> None:
    with heard(signals.refresh_dropped) as events:
        assert refresh_task("1." + "0" * 32 + ".{}") == {"dropped": 1}
    assert events[0]["reason"] == "forged"


def test_an_expired_message_is_dropped_and_counted() -> None:
    from dataclasses import replace

    from async_cache.messages import seal_message

    late = replace(a_refresh().message, expires_at=clock.now() - 1)
    with heard(signals.refresh_dropped) as events:
        assert refresh_task(seal_message(late, get_ring())) == {"dropped": 1}
    assert events[0]["reason"] == "expired"


def test_the_task_is_acknowledged_early_and_never_retried() -> None:
    task = app.tasks["async_cache.refresh"]
    assert (task.acks_late, task.max_retries, task.ignore_result) == (False, 0, True)


def test_what_the_dispatcher_fills_in_is_no_task_option() -> None:
    tree = ast.parse(textwrap.dedent(inspect.getsource(CeleryDispatcher._publish)))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    (publish,) = [one for one in calls if ast.unparse(one.func) == "task.apply_async"]
    filled = {word.arg for word in publish.keywords if word.arg}
    assert "time_limit" in filled
    for name in filled | {"queue", "confirm_timeout"}:
        assert check_options("shop.Job", {"task_options": {name: 1}}), name
