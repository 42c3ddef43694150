"""Real events through a real broker to `celery events`, and what is in the database by then."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from celery import states
from django.db import DatabaseError, connection

from async_cache.monitor.models import TaskState
from bench.figures import Figure
from bench.monitor.app import app

__all__ = ["camera"]

ROOT: Final = Path(__file__).resolve().parents[2]
RATE: Final = 2_000
"""Events a second that must be written."""
PATIENCE: Final = 120.0


@contextmanager
def _filming() -> Iterator[subprocess.Popen[bytes]]:
    """Run the camera with its default frequency."""
    command = [sys.executable, "-m", "celery", "-A", "bench.monitor.app", "events"]
    command += ["--camera", "async_cache.monitor.Camera"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _count(*chosen: str) -> int:
    try:
        rows = TaskState.objects.filter(state__in=chosen) if chosen else TaskState.objects.all()
        return rows.exclude(name="shop.tasks.warm").count()
    except DatabaseError:
        return 0  # SQLite is being written


def _await_camera() -> None:
    """Send events until the first is in the database: those before the camera are not heard."""
    end = time.monotonic() + PATIENCE
    with app.connection_for_write() as link:
        dispatcher = app.events.Dispatcher(link, hostname="feeder@bench")
        while not TaskState.objects.exists():
            assert time.monotonic() < end, "the camera writes nothing"
            dispatcher.send("task-received", uuid="warm", name="shop.tasks.warm")
            time.sleep(0.2)


def _feed(events: int, rate: int) -> tuple[float, float, float]:
    """Publish events; return events a second, the seconds until all were written, the longest lag.

    The lag is how many seconds' worth of tasks are missing in the database.
    """
    before = _count()
    tasks = -(-events // 3)
    command = [sys.executable, "-m", "bench.monitor.feeder", str(events), str(rate)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as feeder:
        longest, started = 0.0, time.time()
        while rate and feeder.poll() is None:
            time.sleep(1)
            if feeder.poll() is None and time.time() - started > 3:
                there = (_count() - before) / (rate / 3)
                longest = max(longest, time.time() - started - there)
        assert feeder.stdout is not None
        told = json.loads(feeder.stdout.read())
    end = time.monotonic() + PATIENCE
    while _count() - before < tasks or _count(states.STARTED, states.RECEIVED):
        if time.monotonic() > end:
            break
        time.sleep(0.1)
    return told["events"] / told["seconds"], time.time() - told["ended"], longest


def camera(size: int) -> tuple[None, tuple[Figure, ...]]:
    """Feed the camera at the rate that is promised, then as fast as this machine can."""
    # The camera and the feeder are processes of their own, on all cores.
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    with _filming():
        _await_camera()
        rate, behind, longest = _feed(size, RATE)
        tasks = -(-size // 3)
        written = _count(states.SUCCESS)
        fast, late, _ = _feed(size // 2, 0)
        missing = tasks + -(-(size // 2) // 3) - _count(states.SUCCESS)
    where = "SQLite in WAL mode" if connection.vendor == "sqlite" else "PostgreSQL"
    seconds = size // 2 / fast + late
    return None, (
        Figure(f"events published, {where}", rate, "/s", least=RATE * 0.97),
        Figure(f"tasks of {tasks:,} that are not in the table", tasks - written, "", 0),
        Figure("all are there after the last event", behind, "s", 3.0),
        Figure("start of the feeder and longest wait of a task's row", longest, "s"),
        Figure(f"{size // 2:,} events at once: published", fast, "/s"),
        Figure("written", size // 2 / seconds, "/s"),
        Figure("tasks not in the table in the end", missing, "", 0),
    )
