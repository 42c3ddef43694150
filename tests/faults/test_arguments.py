"""Row "arguments": one client asks for ever new arguments.

`check_cap` does so with a job that has ``max_keys``: the cache keeps as many and no more, the rest
is answered all the same and counted, and the process does not grow. `check_messages` does so with
one whose misses are left to workers, and no worker.
"""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psutil
import pytest
import redis
from django.core.cache import caches

from async_cache import AsyncCacheJob, call, signals
from async_cache.dispatchers import get_dispatcher
from async_cache.stores.base import Commit
from async_cache.stores.exchanges import Exchanges
from async_cache.stores.scripts import CLAIM, Script
from async_cache.targets import QUEUED_GRACE
from tests.faults.breaks import Break, caught
from tests.faults.scale import count, judge

MAX_KEYS = 500
BATCH = 50


class Limited(AsyncCacheJob[str]):
    """Keeps a few keys."""

    ttl = 3600
    jitter = 0
    max_keys = MAX_KEYS

    def fetch(self, number: int) -> str:
        return f"value {number}"


class Elsewhere(Limited):
    """Leaves the fetch to a worker."""

    fetch_on_miss = False
    dispatcher = "tests.jobs.support.Shelf"


@pytest.fixture(params=["redis", "default"])
def alias(request: pytest.FixtureRequest, settings: Any, redis_caches: str) -> str:
    alias: str = request.param
    settings.ASYNC_CACHE = {"CACHE": alias, "DISPATCHER": "thread", "IO_TIMEOUT": 10}
    return alias


def names_in(alias: str) -> list[str]:
    """Return the names of all that a cache holds."""
    if alias == "default":
        return [str(name) for name in caches[alias]._cache]  # type: ignore[attr-defined]
    with redis.Redis.from_url(caches[alias]._server) as client:  # type: ignore[attr-defined]
        return [name.decode() for name in client.scan_iter(count=1000)]


@contextmanager
def uncached_calls() -> Iterator[list[int]]:
    """Count the calls that were answered without being stored."""
    number = [0]

    def note(**_: object) -> None:
        number[0] += 1

    signals.call_uncached.connect(note)
    try:
        yield number
    finally:
        signals.call_uncached.disconnect(note)


def check_cap(alias: str, number: int) -> None:
    """Ask for so many arguments, each once, every fourth of them together with others."""
    label, job, process = f"arguments/{alias}", Limited(), psutil.Process()
    size = 0
    with uncached_calls() as uncached:
        for start in range(0, number, BATCH):
            arguments = range(start, start + BATCH)
            wanted = [f"value {one}" for one in arguments]
            if start // BATCH % 4 == 3:
                assert job.get_many([call(one) for one in arguments]) == wanted
            else:
                assert [job.get(one) for one in arguments] == wanted
            if not size and start >= number / 2:
                gc.collect()
                size = process.memory_info().rss
    gc.collect()
    grown = (process.memory_info().rss - size) / 2**20
    names = [name for name in names_in(alias) if f"{__name__}.Limited:" in name]
    entries = [name for name in names if re.search(r"Limited:1:\w+$", name)]
    judge(label, "keys kept", len(entries), 1.01 * MAX_KEYS, generous=1.01 * MAX_KEYS)
    # Beside an entry lie two stamps, and a lease or its trace where the cache counts no more.
    judge(label, "names in the cache", len(names), 5.05 * MAX_KEYS, generous=5.05 * MAX_KEYS)
    assert uncached[0] == number - len(entries), "an uncached answer was not counted"
    judge(label, "memory grown in the second half, MB", grown, 2, generous=10)


def check_messages(alias: str, number: int) -> None:
    """Ask for so many arguments of a job that leaves the fetch to workers, without a worker."""
    label, job = f"arguments/{alias}, no worker", Elsewhere()
    shelf: Any = get_dispatcher("tests.jobs.support.Shelf")
    shelf.messages.clear()
    begun = time.monotonic()
    assert [job.get(argument) for argument in range(number)] == [None] * number
    # Each takes a place for the grace of its message.
    bound = MAX_KEYS * (1 + (time.monotonic() - begun) // QUEUED_GRACE)
    judge(label, "messages", len(shelf.messages), bound, generous=bound)
    assert len(shelf.messages) >= MAX_KEYS
    names = [name for name in names_in(alias) if f"{__name__}.Elsewhere:" in name]
    judge(label, "names in the cache", len(names), 5.05 * MAX_KEYS, generous=5.05 * MAX_KEYS)
    shelf.run_all()
    names = [name for name in names_in(alias) if re.search(r"Elsewhere:1:\w+$", name)]
    judge(label, "keys kept", len(names), 1.01 * MAX_KEYS, generous=1.01 * MAX_KEYS)
    assert len(names) > 0.9 * MAX_KEYS


def test_one_client_with_ever_new_arguments(alias: str) -> None:
    check_cap(alias, count(3000, 100_000 if alias == "redis" else 20_000))


def test_one_client_with_ever_new_arguments_and_no_worker(alias: str) -> None:
    check_messages(alias, count(1500, 10_000))


# --- breaks -------------------------------------------------------------------------------------

_commit = Exchanges._commit


def _uncounted(exchanges: Exchanges, commit: Commit) -> Any:
    return _commit(exchanges, replace(commit, members=None))


_forgetful_claim = Script(CLAIM.source.replace(b"if want == 1 and cap > 0", b"if false"))


@pytest.mark.faults
@pytest.mark.parametrize("alias", ["redis"], indirect=True)
def test_the_check_of_messages_notices(alias: str) -> None:
    broken = Break("messages take no place", "async_cache.stores.exchanges.CLAIM", _forgetful_claim)
    caught(broken, lambda: check_messages(alias, 1500))


@pytest.mark.faults
@pytest.mark.parametrize("alias", ["redis"], indirect=True)
@pytest.mark.parametrize(
    ("broken", "number"),
    [
        (
            Break(
                "keys are not counted",
                "async_cache.stores.exchanges.Exchanges._commit",
                _uncounted,
            ),
            3000,
        ),
        (
            Break(
                "uncached answers are not told",
                "async_cache.targets.Runtime.tell",
                lambda *args, **payload: None,
            ),
            3000,
        ),
        (
            Break("addresses are kept", "async_cache.addresses._bounded", lambda mapping: mapping),
            10_000,
        ),
    ],
    ids=str,
)
def test_the_check_notices(alias: str, broken: Break, number: int) -> None:
    caught(broken, lambda: check_cap(alias, number))
