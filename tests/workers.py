"""Real Celery workers for the integration tests, and the brokers that they read."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.conf import settings
from kombu import pools

from tests.celery_app import app
from tests.servers import Process, scratch

ROOT = Path(__file__).resolve().parent.parent
READY_SECONDS = 120.0
PATIENCE = {"IO_TIMEOUT": 10.0, "PUBLISH_TIMEOUT": 10.0}
"""How long a test that does not test them waits for a busy machine."""


@dataclass(frozen=True)
class Broker:
    """Where the messages of a test travel."""

    url: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """Return the Celery settings, as Django settings."""
        return {
            "CELERY_BROKER_URL": self.url,
            "CELERY_BROKER_TRANSPORT_OPTIONS": dict(self.options),
        }


def redis_broker(url: str) -> Broker:
    """Use the database of a Redis URL as the broker."""
    return Broker(url)


def filesystem_broker(directory: Path) -> Broker:
    """Use a directory as the broker: slow, but without any server."""
    folders = {name: directory / name for name in ("queue", "processed", "control")}
    for path in folders.values():
        path.mkdir(parents=True, exist_ok=True)
    return Broker(
        "filesystem://",
        {
            "data_folder_in": str(folders["queue"]),
            "data_folder_out": str(folders["queue"]),
            "processed_folder": str(folders["processed"]),
            "control_folder": str(folders["control"]),
            "store_processed": False,
            "polling_interval": 0.05,
        },
    )


def forget_connections() -> None:
    """Close the pools of connections, and let the Celery app make new ones for its broker."""
    pools.reset()
    app._after_fork()  # type: ignore[attr-defined]


@contextmanager
def connected(broker: Broker) -> Iterator[None]:
    """Let the Celery app of this process publish to ``broker``."""
    before = {name: app.conf[name] for name in ("broker_url", "broker_transport_options")}
    app.conf.update(broker_url=broker.url, broker_transport_options=dict(broker.options))
    forget_connections()
    try:
        yield
    finally:
        app.conf.update(before)
        forget_connections()


class WorkerProcess:
    """A ``celery worker`` in a process of its own, with the settings of the running test."""

    def __init__(
        self,
        broker: Broker,
        *,
        concurrency: int = 1,
        pool: str = "prefork",
        queues: Sequence[str] = (),
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        self.broker = broker
        self.name = f"worker-{uuid.uuid4().hex[:8]}"
        self.directory = scratch("worker-")
        command = [sys.executable, "-m", "celery", "-A", "tests.celery_app", "worker"]
        command += ["--pool", pool, "--concurrency", str(concurrency), "--loglevel", "INFO"]
        command += ["--hostname", f"{self.name}@localhost"]
        command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        if queues:
            command += ["--queues", ",".join(queues)]
        self._process = Process(
            command,
            self.directory / "log",
            grace=5,
            env=self._environment(overrides or {}),
            cwd=ROOT,
        )
        try:
            self.wait_for(r" ready\.$", READY_SECONDS)
        except BaseException:
            self.stop()
            raise

    def _environment(self, overrides: Mapping[str, Any]) -> dict[str, str]:
        shared = {name: getattr(settings, name) for name in ("CACHES", "DATABASES", "ASYNC_CACHE")}
        shared["ASYNC_CACHE"] = {**PATIENCE, **shared["ASYNC_CACHE"]}
        given = {**shared, **self.broker.settings(), **overrides}
        return {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": os.environ.get("DJANGO_SETTINGS_MODULE", "tests.settings"),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(self.directory),  # a killed pool leaves its files; they go with ours
            "TEST_DIRECTORY": str(settings.DIRECTORY),
            "TEST_SETTINGS": json.dumps(given),
        }

    @property
    def pid(self) -> int:
        """The worker's main process."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the worker's main process is still there."""
        return self._process.running

    @property
    def log(self) -> str:
        """What the worker has printed so far."""
        return self._process.output()

    def wait_for(self, pattern: str, seconds: float = 60.0) -> re.Match[str]:
        """Wait until a regular expression matches in the log; return the match."""
        found: list[re.Match[str]] = []

        def seen() -> bool:
            match = re.search(pattern, self.log, re.MULTILINE)
            found.extend([match] if match else [])
            return match is not None

        self._process.wait_until(seen, seconds, f"{pattern!r} in the log of {self.name}")
        return found[0]

    def pause(self) -> None:
        """Freeze the worker, its pool included."""
        os.killpg(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused worker go on."""
        os.killpg(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill the worker and its pool at once, in the middle of whatever they do."""
        os.killpg(self.pid, signal.SIGKILL)
        self._process.stop()

    def discard(self) -> None:
        """End the worker without waiting for its pool to say goodbye."""
        if self.running:
            self.kill()
        self.stop()

    def stop(self) -> None:
        """End the worker, its pool and its files; harmless when they are gone."""
        self._process.stop()
        shutil.rmtree(self.directory, ignore_errors=True)
