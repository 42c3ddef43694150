"""Real workers over Redis whose processes can be killed, and a reader who reads meanwhile."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, Self
from unittest import mock

import psutil
import redis

from async_cache.jobs.base import AsyncCacheJob
from tests.conftest import flush, next_database
from tests.dispatchers.support import eventually
from tests.faults import worker_jobs
from tests.faults.worker_jobs import FETCHED, ORDERS, STARTED, Told
from tests.workers import Broker, WorkerProcess, connected

__all__ = ["Fleet", "Reader", "Victim", "fleet_over"]

LATE = {"async_cache.refresh": {"acks_late": True, "reject_on_worker_lost": True}}


class Victim(NamedTuple):
    """A fetch that has begun in a worker, and waits."""

    key: str
    number: int
    pid: int


class Fleet:
    """Workers of one broker.

    Attributes:
        workers: Those that run.
        board: A client of the Redis through which jobs and tests talk.
    """

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.workers: list[WorkerProcess] = []
        self.board: redis.Redis = worker_jobs.board()

    def start(
        self,
        number: int = 1,
        *,
        concurrency: int = 4,
        late: Sequence[bool] = (False,),
        skew: str = "",
    ) -> list[WorkerProcess]:
        """Start workers at once; ``late`` says which acknowledge their messages late, in turn."""
        given = {"FAULTS_WORKER": "1", "FAULTS_BROKEN": worker_jobs.broken, "FAULTS_CLOCK": skew}

        def start(late: bool) -> WorkerProcess:
            overrides = {
                "CELERY_IMPORTS": ["tests.faults.worker_jobs"],
                "CELERY_WORKER_PREFETCH_MULTIPLIER": 4,
                "CELERY_BROKER_TRANSPORT_OPTIONS": {"visibility_timeout": 3},
                "CELERY_TASK_ANNOTATIONS": LATE if late else {},
            }
            return WorkerProcess(self.broker, concurrency=concurrency, overrides=overrides)

        with mock.patch.dict(os.environ, given), ThreadPoolExecutor(number) as pool:
            started = list(pool.map(start, itertools.islice(itertools.cycle(late), number)))
        self.workers += started
        return started

    def begin(self, keys: Sequence[str]) -> list[Victim]:
        """Invalidate keys; return their fetches once they have begun, and wait."""
        self.board.delete(STARTED)
        self.board.hset(ORDERS, mapping=dict.fromkeys(keys, "wait"))
        for key in keys:
            Told().invalidate(key)
        found: dict[str, Victim] = {}
        while len(found) < len(keys):
            told = self.take(STARTED, 30)
            assert told is not None, f"no fetch of {set(keys) - set(found)} has begun"
            key, number, pid = told.split()
            if key in keys:
                found[key] = Victim(key, int(number), int(pid))
        self.board.delete(ORDERS)  # the next fetch of the key waits no more
        return list(found.values())

    def take(self, name: str, seconds: float) -> str | None:
        """Wait for the next word of a list; return None when none comes."""
        told: Any = self.board.blpop([name], seconds)
        return str(told[1]) if told else None

    def release(self, victims: Sequence[Victim]) -> None:
        """Let fetches go on."""
        for victim in victims:
            self.board.rpush(worker_jobs.go(victim.number), "go")

    def fetched(self) -> dict[str, int]:
        """Return how often workers have fetched each key of `Queued`."""
        counts: Any = self.board.hgetall(FETCHED)
        return {key: int(number) for key, number in counts.items()}

    def worker_of(self, victim: Victim) -> WorkerProcess:
        """Return the worker in which a fetch runs."""
        above = psutil.Process(victim.pid).ppid()
        (found,) = [worker for worker in self.workers if worker.pid == above]
        return found

    def waiting(self) -> int:
        """Return how many messages no worker has taken yet."""
        with redis.Redis.from_url(self.broker.url) as client:
            return int(client.llen("celery"))

    def lose(self, worker: WorkerProcess) -> None:
        """Take a worker that has ended off the list."""
        worker.discard()
        self.workers.remove(worker)

    def close(self) -> None:
        """End all workers."""
        for worker in list(self.workers):
            self.lose(worker)
        self.board.close()


@contextmanager
def fleet_over(redis_url: str) -> Iterator[Fleet]:
    """Let this process publish to a Redis broker that is empty, beside the caches."""
    url = next_database(redis_url)
    flush(url)
    broker = Broker(url)
    with ExitStack() as stack:
        stack.enter_context(connected(broker))
        fleet = Fleet(broker)
        stack.callback(fleet.close)
        yield fleet


class Reader:
    """A thread that reads keys all the time, and notes what it gets and how long that takes.

    Attributes:
        values: The last value of each key.
        changed_at: When that was first seen.
        longest: The longest read in seconds.
        errors: What reads have raised.
    """

    def __init__(
        self, job: AsyncCacheJob[Any], keys: Sequence[str], *, pause: float = 0.005
    ) -> None:
        self.job = job
        self.keys = list(keys)
        self.pause = pause
        self.values: dict[str, Any] = {}
        self.changed_at: dict[str, float] = {}
        self.longest = 0.0
        self.errors: list[Exception] = []
        self.sweeps = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._ended.wait(self.pause):
            for key in self.keys:
                begun = time.monotonic()
                try:
                    value = self.job.get(key)
                except Exception as error:  # noqa: BLE001 - counted
                    self.errors.append(error)
                    continue
                now = time.monotonic()
                self.longest = max(self.longest, now - begun)
                if self.values.get(key) != value:
                    self.values[key], self.changed_at[key] = value, now
            self.sweeps += 1

    def wait(self, before: dict[str, Any], keys: Sequence[str], seconds: float) -> float:
        """Wait until the keys have other values than before; return when the last one had."""
        eventually(lambda: all(self.values[key] != before[key] for key in keys), seconds)
        return max(self.changed_at[key] for key in keys)

    def sweep(self) -> None:
        """Wait until all keys have been read once more."""
        target = self.sweeps + 2
        eventually(lambda: self.sweeps >= target)

    def __enter__(self) -> Self:
        self._thread.start()
        eventually(lambda: self.sweeps > 0 or self.errors)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(30)
