"""Row "soak": random faults for long; no promise breaks, nothing grows, every election has an end.

Readers in several processes, workers of which one is killed a minute, a writer who invalidates and
deletes; before the cache and before the broker a proxy that goes wrong for 5 to 20 s at a time.
``SOAK_SECONDS`` (600) says for how long. It prints a report.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import chain
from typing import Any

import psutil
import pytest

from async_cache import invalidate_tags
from async_cache.exceptions import StoreUnavailable
from tests.dispatchers.support import eventually
from tests.faults import soak_jobs
from tests.faults.proxy import Mode, Proxy, address_of, through
from tests.faults.soak_jobs import KEYS, Soaked
from tests.servers import RedisServer
from tests.workers import Broker, WorkerProcess

SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
READERS = 3
FAULTS: list[tuple[str, Callable[[Proxy], object]]] = [
    ("refused", lambda proxy: proxy.set(Mode.REFUSE)),
    ("reset", lambda proxy: proxy.set(Mode.RESET)),
    ("blackholed", lambda proxy: proxy.set(Mode.BLACKHOLE)),
    ("SYN dropped", lambda proxy: proxy.set(Mode.SYN_DROP)),
    ("20 ms away", lambda proxy: proxy.delay(0.01)),
    ("replies dropped", lambda proxy: proxy.drop_reply(b"", float("inf"))),
]


class Soak:
    """All that runs, until `close`."""

    def __init__(self, settings: Any, stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
        cache, broker, board = (stack.enter_context(RedisServer()) for _ in range(3))
        self.cache_proxy = stack.enter_context(Proxy(address_of(cache.url)))
        self.broker_proxy = stack.enter_context(Proxy(address_of(broker.url)))
        monkeypatch.setenv("SOAK_BOARD", board.url)
        monkeypatch.setattr(soak_jobs, "_board", None)
        location = through(cache.url, self.cache_proxy)
        entry = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": location}
        settings.CACHES = {**settings.CACHES, "redis": entry}
        settings.ASYNC_CACHE = {
            "CACHE": "redis",
            "DISPATCHER": "celery",
            "IO_TIMEOUT": 0.25,
            "PUBLISH_TIMEOUT": 0.3,
        }
        self.settings = settings
        self.board = soak_jobs.board()
        self.broker = Broker(broker.url)
        self.workers = [self.start_worker() for _ in range(2)]
        stack.callback(self.end_workers)
        self.killed: set[int] = set()
        self.faults: Counter[str] = Counter()
        self.changes: Counter[str] = Counter()
        self.over = threading.Event()

    def start_worker(self) -> WorkerProcess:
        imports = {"CELERY_IMPORTS": ["tests.faults.soak_jobs"]}
        return WorkerProcess(self.broker, concurrency=2, overrides=imports)

    def end_workers(self) -> None:
        for worker in self.workers:
            worker.discard()

    def start_reader(self, seconds: float) -> subprocess.Popen[str]:
        shared = {name: getattr(self.settings, name) for name in ("CACHES", "ASYNC_CACHE")}
        url = through(self.broker.url, self.broker_proxy)
        given = {**shared, "CELERY_BROKER_URL": url}
        env = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "TEST_SETTINGS": json.dumps(given),
        }
        command = [sys.executable, "-m", "tests.faults.soak_reader", str(seconds)]
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)

    # --- what goes wrong --------------------------------------------------------------------------

    def break_things(self, end: float) -> None:
        """Let one of the proxies go wrong, again and again."""
        chance = random.Random()
        while not self.over.wait(chance.uniform(3, 10)) and time.time() < end - 25:
            cache = chance.random() < 0.5
            proxy = self.cache_proxy if cache else self.broker_proxy
            name, fault = chance.choice(FAULTS)
            self.faults[f"{'cache' if cache else 'broker'} {name}"] += 1
            begun = time.time()
            if cache:
                self.board.set("cache fault", "1")
            fault(proxy)
            self.over.wait(chance.uniform(5, 20))
            proxy.restore()
            if cache:
                self.board.rpush("cache faults", json.dumps([begun, time.time()]))
                self.board.delete("cache fault")

    def kill(self) -> None:
        """Kill a worker and all its children; start another."""
        worker = self.workers.pop(0)
        main = psutil.Process(worker.pid)
        self.killed |= {worker.pid, *(child.pid for child in main.children(recursive=True))}
        worker.kill()
        worker.discard()
        self.workers.append(self.start_worker())

    def kill_each_minute(self, end: float) -> None:
        while not self.over.wait(60 if SECONDS > 120 else 10) and time.time() < end - 15:
            self.kill()

    def write(self) -> None:
        """Change what is true, and say so."""
        key, verb = (
            random.choice(KEYS),
            random.choices(("invalidate", "tag", "delete"), (8, 1, 2))[0],
        )
        version = self.board.hincrby(soak_jobs.VERSIONS, key, 1)
        if verb == "delete":
            self.board.hset("delete tried", key, time.time())
        try:
            if verb == "tag":
                invalidate_tags("soaked")
            else:
                getattr(Soaked(), verb)(key)
        except StoreUnavailable:
            self.changes["not taken at once"] += 1
            return
        if verb == "delete":
            self.board.hset("deleted", key, f"{time.time()} {version}")
        self.changes[verb] += 1

    # --- what is judged ---------------------------------------------------------------------------

    def seen_at_last(self) -> None:
        """Check that every change is seen once all is well again."""

        def behind() -> list[str]:
            true = self.board.hgetall(soak_jobs.VERSIONS)
            found = [(key, Soaked().peek(key)) for key in KEYS]
            return [
                key
                for key, value in found
                if not isinstance(value, dict) or value["version"] < int(true.get(key, 0))
            ]

        eventually(lambda: not behind(), 60)

    def elections(self) -> Counter[str]:
        """Return how refreshes ended; those that say nothing were killed, or met an outage."""
        counts = self.board.hgetall(soak_jobs.COUNTS).items()
        found = Counter({str(name): int(number) for name, number in counts})
        outages = self.board.hgetall("outages")
        for name, number in self.board.hgetall(soak_jobs.OPEN).items():
            pid = str(name).split()[0]
            assert int(number) >= 0, name
            if int(number):
                why = "killed" if int(pid) in self.killed else "cut off from the cache"
                assert why == "killed" or pid in outages, f"{name!s} has no end and no reason"
                found[why] += int(number)
        return found


@pytest.fixture
def soak(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Soak]:
    with ExitStack() as stack:
        made = Soak(settings, stack, monkeypatch)
        stack.callback(made.over.set)
        yield made


def grown(samples: list[list[float]], column: int) -> tuple[float, float]:
    """Return the most of the third quarter and of the last."""
    half = samples[len(samples) // 2 :]
    middle = len(half) // 2
    first, last = half[:middle], half[middle:]
    return max(row[column] for row in first), max(row[column] for row in last)


@pytest.mark.soak
@pytest.mark.django_db(transaction=True)
def test_nothing_breaks_and_nothing_grows(soak: Soak) -> None:
    end = time.time() + SECONDS
    for key in KEYS:
        Soaked().set({"key": key, "at": time.time(), "version": 0, "pid": 0}, key)
    readers = [soak.start_reader(SECONDS + 20) for _ in range(READERS)]
    threads = [
        threading.Thread(target=work, args=(end,))
        for work in (soak.break_things, soak.kill_each_minute)
    ]
    for thread in threads:
        thread.start()
    while time.time() < end:
        soak.write()
        time.sleep(0.1)
    soak.over.set()
    for thread in threads:
        thread.join(60)
    soak.seen_at_last()
    reports = [
        json.loads(reader.communicate(timeout=120)[0].splitlines()[-1]) for reader in readers
    ]
    time.sleep(2)
    report(soak, reports)


def report(soak: Soak, reports: list[dict[str, Any]]) -> None:
    """Print what was seen, and judge it."""
    broken = list(chain.from_iterable(one["broken"] for one in reports))
    ends = soak.elections()
    total = {name: sum(one[name] for one in reports) for name in ("reads", "errors", "own")}
    most = {
        name: round(max(one[name] for one in reports), 3)
        for name in ("oldest", "slowest", "slowest_in_faults")
    }
    print(f"\nsoak of {SECONDS:g} s: {len(broken)} broken promises {broken[:5]}")
    print(f"reads {total}, seconds {most}, changes {dict(soak.changes)}")
    print(f"faults {dict(soak.faults)}, workers killed {len(soak.killed) // 3}")
    print(f"elections {dict(ends)}")
    started = ends.pop("started")
    growth = [[grown(one["samples"], column) for column in (1, 2, 3)] for one in reports]
    print(f"memory, descriptors, threads of the third and the last quarter: {growth}")
    assert not broken
    assert started == sum(ends.values()), "elections without an end"
    for memory, files, threads in growth:
        assert memory[1] <= memory[0] * 1.1 + 2e6, "memory grows"
        assert files[1] <= files[0] + 8, "descriptors leak"
        assert threads[1] <= threads[0] + 2, "threads leak"
