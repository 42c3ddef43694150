"""A real camera, whose database goes away and comes back."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from celery import Celery

from tests.conftest import unavailable
from tests.dispatchers.support import eventually
from tests.servers import (
    PostgresServer,
    Process,
    ServerUnavailable,
    _copy_programs,
    _reachable_by_others,
    database_from_url,
    scratch,
)
from tests.workers import ROOT


class Database(PostgresServer):
    """A PostgreSQL server that can be stopped and started again with what it holds."""

    def prepare(self) -> None:
        found = self.find()
        if found is None:
            raise ServerUnavailable("no PostgreSQL server programs; run `make servers`")
        self.user = self.system_user()
        self.directory = scratch("pg-", self.user)
        reachable = self.user is None or _reachable_by_others(Path(found))
        self.programs = found if reachable else _copy_programs(Path(found), self.directory)
        self._initialise(self.programs, self.user)
        self.starts = 0

    def begin(self) -> None:
        self.starts += 1
        self._process = Process(
            [f"{self.programs}/postgres", "-D", f"{self.directory}/data", *self._settings()],
            Path(f"{self.directory}/log-{self.starts}"),
            stop_signal="INT",
            user=self.user,
        )
        self._process.wait_until(self.answers, 60, self.name)

    def rows(self) -> dict[str, str]:
        with psycopg.connect(self.url) as connection:
            found = connection.execute("SELECT task_id, state FROM async_cache_monitor_taskstate")
            return dict(found.fetchall())


@pytest.fixture
def database() -> Iterator[Database]:
    server = Database()
    try:
        server.prepare()
    except ServerUnavailable as error:
        unavailable(PostgresServer, str(error))
    server.begin()
    yield server
    server.process.stop()
    assert server.directory is not None
    shutil.rmtree(server.directory, ignore_errors=True)


@pytest.fixture
def run(database: Database, redis_url: str, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start a command of the project whose database that is."""
    given = {
        "DATABASES": {"default": database_from_url(database.url)},
        "CELERY_BROKER_URL": redis_url,
    }
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "PYTHONPATH": str(ROOT),
        "TEST_SETTINGS": json.dumps(given),
    }
    started: list[Process] = []

    def start(*arguments: str) -> Process:
        log = tmp_path / f"log-{len(started)}"
        command = [sys.executable, "-m", *arguments]
        started.append(Process(command, log, grace=5, env=environment, cwd=ROOT))
        return started[-1]

    yield start
    for process in started:
        process.stop()


@pytest.mark.integration
def test_nothing_is_lost_while_the_database_is_away(
    database: Database, run: Callable[..., Process], redis_url: str
) -> None:
    assert run("django", "migrate", "async_cache_monitor", "-v0").wait(120) == 0
    app = Celery("feeder", broker=redis_url, set_as_current=False)
    command = ("celery", "-A", "tests.celery_app", "events", "--frequency", "0.2")
    camera = run(*command, "--camera", "async_cache.monitor.Camera")
    with app.connection_for_write() as connection:
        dispatcher: Any = app.events.Dispatcher(connection, hostname="one@host")

        def task() -> str:
            task_id = str(uuid.uuid4())
            for kind in ("received", "started", "succeeded"):
                dispatcher.send(f"task-{kind}", uuid=task_id, name="shop.add")
            return task_id

        def heard() -> bool:
            # Events that came before the camera was there are not heard.
            task()
            time.sleep(0.2)
            return bool(database.rows())

        eventually(heard, 60)
        before = [task() for _ in range(20)]
        eventually(lambda: set(before) <= database.rows().keys(), 60)
        database.process.stop()
        during = [task() for _ in range(20)]
        eventually(lambda: "waits for the database" in camera.output(), 60)
        during += [task() for _ in range(20)]
        database.begin()
        eventually(lambda: set(during) <= database.rows().keys(), 60)
        after = task()
        eventually(lambda: after in database.rows(), 60)
        camera.signal(signal.SIGTERM)
        assert camera.wait(30) == 0
    assert {database.rows()[task_id] for task_id in (*before, *during, after)} == {"SUCCESS"}
