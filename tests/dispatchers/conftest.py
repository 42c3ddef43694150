"""Every dispatcher, ready to use, for the contract suite."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import django
import pytest
from celery.contrib.testing.worker import start_worker

from async_cache import guards, publisher
from async_cache.dispatchers import Dispatcher, get_dispatcher
from tests.celery_app import app
from tests.dispatchers import jobs

NAMES = [
    "immediate",
    "thread",
    "celery",
    "celery eager",
    pytest.param(
        "django_tasks",
        marks=pytest.mark.skipif(django.VERSION < (6, 0), reason="Django has no tasks before 6.0"),
    ),
]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    guards.forget()
    jobs.fetched.clear()
    jobs.batches.clear()
    yield
    publisher.drain(1.0)
    publisher._reset()
    guards.forget()


@pytest.fixture(scope="module")
def worker() -> Iterator[None]:
    """Run a Celery worker in a thread of this process, over a broker in its memory."""
    with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=10):
        yield


@pytest.fixture(params=NAMES)
def dispatcher(request: pytest.FixtureRequest, settings: Any) -> Iterator[Dispatcher]:
    """Make each dispatcher in turn the project's, with a worker where it needs one."""
    name, _, mode = request.param.partition(" ")
    settings.ASYNC_CACHE = {"DISPATCHER": name}
    app.conf.task_always_eager = mode == "eager"
    found = get_dispatcher(name)
    if name == "celery" and found.needs_worker:
        request.getfixturevalue("worker")
    yield found
    app.conf.task_always_eager = False
    found.close()
