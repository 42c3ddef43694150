"""The Celery app of the tests with the backend that a test wants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from celery import Celery
from celery.result import AsyncResult, GroupResult

from tests.celery_app import app

TASKS = {"CELERY_IMPORTS": ["tests.results.celery_tasks"]}


def make_app(**conf: Any) -> Celery:
    """Return an app of its own, which sends nothing."""
    made = Celery("results", set_as_current=False)
    made.conf.update(broker_url="memory://", task_store_eager_result=True, **conf)
    return made


def result_of(task_id: str, app: Any = app, backend: Any = None) -> Any:
    """Return Celery's result of a task, untyped: the stubs know of no states of a project's own."""
    return AsyncResult(task_id, app=app, backend=backend)


def group_of(group_id: str, members: Sequence[Any], app: Any) -> Any:
    """Return Celery's result of a group, which may nest."""
    return GroupResult(group_id, list(members), app=app)


@contextmanager
def backend_of(url: str, **conf: Any) -> Iterator[Any]:
    """Give the app of the tests a result backend; yield it."""
    before = {name: app.conf[name] for name in ("result_backend", *conf)}
    app.conf.update(result_backend=url, **conf)
    _forget()
    try:
        yield app.backend
    finally:
        app.conf.update(before)
        _forget()


def _forget() -> None:
    app._backend_cache = None  # type: ignore[attr-defined]
    app._local.__dict__.pop("backend", None)  # type: ignore[attr-defined]
