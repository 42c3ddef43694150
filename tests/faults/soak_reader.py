"""A process that reads all the time, and judges what it gets: ``python -m`` this module."""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from typing import Any

import django
import psutil

THREADS = 2
CALM = 3.0
"""Seconds after a fault of the cache, or a delete, in which a value need not be servable."""
SLOW = 1.0
"""What a read of a servable value may take on a machine that is busy with other things."""


def main(seconds: float) -> None:
    """Read until the time is over; print what was seen as JSON."""
    django.setup()
    import tests.celery_app  # noqa: F401 - the app that publishes
    from tests.faults import soak_jobs

    reader = Reader(soak_jobs, time.time() + seconds)
    threads = [threading.Thread(target=reader.run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    while time.time() < reader.ends:
        time.sleep(2)
        reader.sample()
    for thread in threads:
        thread.join()
    print(json.dumps(vars(reader.seen)), flush=True)


class Seen:
    """What a reader process reports."""

    def __init__(self) -> None:
        self.reads = self.errors = self.own = 0
        self.broken: list[Any] = []
        self.oldest = 0.0
        self.slowest = self.slowest_in_faults = 0.0
        self.samples: list[tuple[float, int, int, int]] = []


class Reader:
    """Reads keys by chance in several threads."""

    def __init__(self, jobs: Any, ends: float) -> None:
        self.jobs = jobs
        self.ends = ends
        self.seen = Seen()
        self._lock = threading.Lock()
        self._process = psutil.Process()

    def sample(self) -> None:
        p = self._process
        row = (time.time(), p.memory_info().rss, p.num_fds(), p.num_threads())
        self.seen.samples.append(row)

    def run(self) -> None:
        job, chance = self.jobs.Soaked(), random.Random(os.urandom(8))
        while time.time() < self.ends:
            self.read(job, chance.choice(self.jobs.KEYS))
            time.sleep(0.003)

    def read(self, job: Any, key: str) -> None:
        self.jobs.fetching.began = 0.0
        begun, error, value = time.time(), None, None
        try:
            value = job.get(key)
        except Exception as raised:  # noqa: BLE001 - judged
            error = raised
        ended = time.time()
        own = self.jobs.fetching.began > 0
        with self._lock:
            seen = self.seen
            seen.reads += 1
            seen.own += own
            if error is not None or ended - begun > SLOW:
                self._judge_wait(key, begun, ended, error)
            elif not own:
                seen.slowest = max(seen.slowest, ended - begun)
            if value is not None:
                self._judge_value(key, begun, value)

    def _judge_value(self, key: str, begun: float, value: Any) -> None:
        seen = self.seen
        age = begun - value["at"]
        seen.oldest = max(seen.oldest, age)
        if value["key"] != key:
            seen.broken.append(["P11", key, value])
        if age > self.jobs.TTL + self.jobs.GRACE + 1:
            seen.broken.append(["P1", key, age])
        deleted = self.jobs.board().hget("deleted", key)
        if deleted is not None:
            at, version = deleted.split()
            # A second: who came before the delete may have begun the fetch that this one shares.
            if begun > float(at) + 1 and value["version"] < int(version):
                seen.broken.append(["P4", key, value, deleted, begun])

    def _judge_wait(self, key: str, begun: float, ended: float, error: Exception | None) -> None:
        """Say whether a value was servable while it was waited for in vain, or for long."""
        board, seen = self.jobs.board(), self.seen
        faults = [json.loads(one) for one in board.lrange("cache faults", 0, -1)]
        hit = any(start <= ended and begun <= end + CALM for start, end in faults)
        hit = hit or bool(board.get("cache fault"))
        tried = float(board.hget("delete tried", key) or 0)
        cold = begun < tried + self.jobs.GRACE
        if error is not None:
            seen.errors += 1
        if not hit and not cold:
            seen.broken.append(["P2", key, begun, ended - begun, repr(error)])
        elif error is None:
            seen.slowest_in_faults = max(seen.slowest_in_faults, ended - begun)


if __name__ == "__main__":
    main(float(sys.argv[1]))
