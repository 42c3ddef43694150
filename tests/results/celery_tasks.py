"""Celery tasks whose results the tests look for."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from celery import Task

from async_cache.results.backends.database import DatabaseBackend
from tests.celery_app import app

persistent_backend = DatabaseBackend(app=app)


class Persistent(Task):  # type: ignore[type-arg]
    """Keeps its results in the database, whichever the app's backend."""

    @property  # type: ignore[misc]
    def backend(self) -> Any:
        return persistent_backend


@app.task(ignore_result=False)
def add(x: int, y: int) -> int:
    return x + y


@app.task(ignore_result=True)
def quiet(x: int) -> int:
    return x


@app.task(ignore_result=False)
def total(values: list[int]) -> int:
    return sum(values)


@app.task(ignore_result=False)
def fail(text: str) -> None:
    raise ValueError(text)


@app.task(ignore_result=False, bind=True, max_retries=2)
def second_time(self: Any) -> int:
    if self.request.retries == 0:
        raise self.retry(countdown=0, exc=RuntimeError("once more"))
    return int(self.request.retries)


@app.task(ignore_result=False, bind=True)
def progress(self: Any, flag: str) -> str:
    self.update_state(state="HALFWAY", meta={"done": 1, "of": 2})
    path = Path(flag)
    for _ in range(1_000):
        if path.exists():
            break
        self.app.backend._sleep(0.02)
    return "whole"


@app.task(ignore_result=False, bind=True)
def parent(self: Any) -> str:
    add.delay(1, 1)
    return "parent"


@app.task(ignore_result=False, bind=True, acks_late=True, reject_on_worker_lost=True)
def die_once(self: Any, flag: str) -> str:
    path = Path(flag)
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


@app.task(ignore_result=False, acks_late=True, reject_on_worker_lost=True)
def late(x: int) -> int:
    return x


@app.task(ignore_result=False)
def note(values: Any, path: str) -> Any:
    """Add a line for each call."""
    with Path(path).open("a") as file:
        file.write("called\n")
    return values


@app.task(ignore_result=False, base=Persistent)
def keep(x: int) -> int:
    return x


@app.task(ignore_result=False, persist=True)
def kept(x: int) -> int:
    return x


@app.task(ignore_result=False, persist=True)
def kept_total(values: list[int]) -> int:
    return sum(values)


@app.task(ignore_result=False, persist="buffered")
def buffered(x: int) -> int:
    return x
