"""Row "canaries": secrets in values, errors, arguments and keys are seen where they belong only.

`check_traces` runs all that handles them, here and in a worker, and looks for them in the logs, the
events of the workers, the tables, the pages and the commands. `check_broker` looks at everything
that the broker holds while its worker stands still.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any

import pytest
import redis
from asgiref.sync import async_to_sync
from celery.app.task import Context
from django.apps import apps
from django.contrib.admin import site
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.urls import reverse

from async_cache import AsyncCacheError, listeners, messages
from async_cache.results import async_task, fetch, result, running
from async_cache.results.backends import DatabaseBackend
from async_cache.results.models import TaskResult
from tests.celery_app import app
from tests.conftest import next_database
from tests.dispatchers.support import eventually
from tests.faults.breaks import Break, caught
from tests.faults.canary_jobs import (
    ARGUMENT,
    ERROR,
    KEY,
    VALUE,
    Careless,
    Keeper,
    Refused,
)
from tests.workers import WorkerProcess

pytestmark = [pytest.mark.integration, pytest.mark.django_db(transaction=True)]

HERE = "tests.faults.canary_jobs"
PATIENCE = 60.0
CANARIES = (VALUE, ERROR, ARGUMENT, KEY)


@pytest.fixture
def worker(
    settings: Any, redis_caches: str, celery_worker_process: Callable[..., WorkerProcess]
) -> WorkerProcess:
    settings.ASYNC_CACHE = {
        "CACHE": "redis",
        "DISPATCHER": "celery",
        "IO_TIMEOUT": 10.0,
        "PUBLISH_TIMEOUT": 10.0,
        "RESULTS": {"MAX_WAIT": PATIENCE},
    }
    given: dict[str, Any] = {"CELERY_IMPORTS": [HERE, "tests.faults.sabotage"]}
    given |= {"CELERY_WORKER_SEND_TASK_EVENTS": True, "CELERY_TASK_SEND_SENT_EVENT": True}
    return celery_worker_process(concurrency=1, overrides=given)


@contextmanager
def events() -> Iterator[list[dict[str, Any]]]:
    """Hear what the workers tell their monitors."""
    seen: list[dict[str, Any]] = []
    ready = threading.Event()

    def listen() -> None:
        with app.connection() as broker:
            receiver = app.events.Receiver(broker, handlers={"*": seen.append})
            with receiver.consumer_context() as (heard, _, _):
                ready.set()
                while not over.is_set():
                    try:
                        heard.drain_events(timeout=0.1)
                    except TimeoutError:
                        continue

    over, thread = threading.Event(), threading.Thread(target=listen)
    thread.start()
    try:
        assert ready.wait(PATIENCE)
        yield seen
    finally:
        over.set()
        thread.join(PATIENCE)


def secretly(*jobs: type[Keeper]) -> None:
    """Use each verb of some jobs with a secret argument, whatever comes of it."""
    for kind in jobs:
        job = kind()
        argument = {KEY: [ARGUMENT]}
        for verb in ("get", "aget", "refresh", "get_many", "peek", "explain", "invalidate"):
            work = getattr(job, verb)
            given = ([(argument,)],) if verb == "get_many" else (argument,)
            try:
                async_to_sync(work)(*given) if verb == "aget" else work(*given)
            except (AsyncCacheError, LookupError):
                continue  # what the caller of a failing fetch gets is the error itself
        try:
            job.get({KEY: object()})
        except TypeError:
            continue


def in_worker(worker: WorkerProcess, *jobs: type[Keeper]) -> list[str]:
    """Let the worker refresh, fail and call functions; return the ids of the calls."""
    for kind in jobs:
        assert kind().refresh_later({KEY: [ARGUMENT, "late"]}).task_id
    ids = [
        async_task(f"{HERE}.{name}", ARGUMENT, secret={KEY: ARGUMENT}, cached=cached)
        for name in ("keep", "careless")
        for cached in (True, False)
    ]
    for number, task_id in enumerate(ids):
        found = fetch(task_id, wait=-1, cached=not number % 2)
        assert found is not None
        assert found.success == (number < 2)
    return ids


def tables(*left_out: str) -> str:
    """Return all that the database holds, but some columns."""
    parts = []
    for model in apps.get_models(include_auto_created=True):
        names = [f.attname for f in model._meta.concrete_fields if f.attname not in left_out]
        if model._meta.db_table in connection.introspection.table_names():
            parts.append(repr(list(model._base_manager.values_list(*names))))
    return "\n".join(parts)


def pages(client: Client) -> str:
    """Return the lists of the admin, and what who is not staff gets of a result."""
    found = []
    for model in apps.get_models():
        label = f"{model._meta.app_label}_{model._meta.model_name}"
        if model._meta.app_label.startswith("async_cache") and site.is_registered(model):
            found.append(client.get(reverse(f"admin:{label}_changelist")).content.decode())
    row = TaskResult.objects.first()
    assert row is not None
    assert row.task_id in "".join(found)
    stranger = Client()
    for name in ("celery-task_status", "celery-is_task_successful"):
        found.append(stranger.get(f"/results/{row.task_id}/{name[7:]}/").content.decode())
    return "\n".join(found)


def commands() -> str:
    """Return what the commands print."""
    out = StringIO()
    for name in ("list", "stats"):
        call_command("async_cache", name, stdout=out, stderr=out)
    return out.getvalue()


def written(records: list[logging.LogRecord]) -> str:
    """Return log records as they would be written, tracebacks included."""
    style = logging.Formatter("%(name)s %(message)s")
    return "\n".join(style.format(record) for record in records)


def store_as_celery() -> None:
    """Keep the outcome of a task of the project, as Celery does it."""
    backend = DatabaseBackend(app)
    request = Context(
        {"id": "ours", "task": "shop.add", "args": (ARGUMENT,), "kwargs": {KEY: ARGUMENT}}
    )
    backend.store_result("ours", {KEY: VALUE}, "SUCCESS", request=request)


def hits(text: str, canaries: tuple[str, ...] = CANARIES) -> list[str]:
    return [one for one in canaries if one in text]


def check_traces(worker: WorkerProcess, client: Client, caplog: Any) -> None:
    """Handle secrets everywhere; look for them everywhere else."""
    listeners.limit.clear()
    caplog.clear()
    caplog.set_level(logging.DEBUG, logger="async_cache")
    with events() as told:
        secretly(Keeper, Careless, Refused)
        in_worker(worker, Keeper, Careless, Refused)
        for name in ("keep", "careless"):
            async_task(f"{HERE}.{name}", ARGUMENT, secret=ARGUMENT, sync=True)
        store_as_celery()
        eventually(lambda: sum(e["type"] == "task-succeeded" for e in told) >= 4, 10)
    assert "LookupError" in caplog.text, "nothing is said of the failures"
    assert result("nothing") is None
    places = {
        "the logs": written(caplog.records),
        "the log of the worker": worker.log,
        "the events": json.dumps(told, default=repr),
        "the admin": pages(client),
        "the commands": commands(),
        # A result is its value, and of an error its text: here nothing else is.
        "the rows": tables("result", "traceback"),
    }
    found = {place: hits(text) for place, text in places.items()}
    assert not any(found.values()), {place: seen for place, seen in found.items() if seen}
    assert not hits(tables(), (ARGUMENT,)), "rows hold arguments that nobody asked for"


def dump(url: str) -> str:
    """Return all that a Redis database holds, as text."""
    parts: list[Any] = []
    with redis.Redis.from_url(url) as client:
        for key in client.scan_iter():
            match client.type(key):
                case b"list":
                    parts += [key, client.lrange(key, 0, -1)]
                case b"hash":
                    parts += [key, client.hgetall(key)]
                case b"string":
                    parts += [key, client.get(key)]
                case b"set":
                    parts += [key, client.smembers(key)]
                case _:
                    parts += [key, client.zrange(key, 0, -1)]
    return _opened(repr(parts))


def _opened(text: str) -> str:
    """Return text with what is base64 in it as it is written there, too."""
    import base64
    import re

    found = re.findall(r"[A-Za-z0-9+/]{40,}={0,2}", text)
    return text + "".join(
        repr(base64.b64decode(one + "=" * (-len(one) % 4))) for one in found if len(one) % 4 != 1
    )


def check_broker(worker: WorkerProcess, url: str) -> None:
    """Let all that goes through the broker lie there; look at it."""
    secretly(Keeper, Careless, Refused)
    worker.pause()
    try:
        for kind in (Keeper, Careless, Refused):
            for number in range(5):
                kind().refresh_later({KEY: [ARGUMENT, number]})
        Keeper().set({KEY: VALUE}, {KEY: [ARGUMENT]})
        Keeper().get({KEY: [ARGUMENT]})
        ids = [async_task(f"{HERE}.{name}", ARGUMENT) for name in ("keep", "careless")]
        lies = dump(next_database(url))
        assert ARGUMENT in lies, "messages are sealed and not encrypted: the dump is blind"
        assert not hits(lies, (VALUE, ERROR)), "in the broker"
    finally:
        worker.resume()
    for task_id in ids:
        assert fetch(task_id, wait=-1) is not None
    assert not hits(dump(next_database(url)), (VALUE, ERROR)), "in the broker, afterwards"


def test_secrets_leave_no_trace(
    worker: WorkerProcess, admin_client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    check_traces(worker, admin_client, caplog)


def test_values_and_errors_are_never_in_the_broker(
    worker: WorkerProcess, redis_caches: str
) -> None:
    check_broker(worker, redis_caches)


# --- breaks -------------------------------------------------------------------------------------


def _kept(message: Any, site: Any, started: Any, made: Any = running._begun) -> Any:
    return made(message, site, started).replace(args=repr(message.args))


def _with_a_value(message: Any, ring: Any, seal: Any = messages.seal_message) -> str:
    return str(seal(message, ring)) + VALUE


@pytest.mark.faults
@pytest.mark.parametrize(
    "broken",
    [
        Break("logs say what errors say", "async_cache.signals.error_name", str),
        Break("rows hold arguments", "async_cache.results.running._begun", _kept),
    ],
    ids=str,
)
def test_the_check_of_traces_notices(
    worker: WorkerProcess, admin_client: Client, caplog: Any, broken: Break
) -> None:
    assert "canary" in caught(broken, lambda: check_traces(worker, admin_client, caplog))


@pytest.mark.faults
def test_the_check_of_the_broker_notices(worker: WorkerProcess, redis_caches: str) -> None:
    broken = Break(
        "messages hold values", "async_cache.dispatchers.celery.seal_message", _with_a_value
    )
    assert "canary" in caught(broken, lambda: check_broker(worker, redis_caches))
