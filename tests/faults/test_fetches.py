"""Row "fetches": the user's own code raises, hangs, is slow, or alternates.

`check_hour` lets a fetch misbehave for an hour of fake time and reads all the while. `check_hung`
hangs a fetch in a worker, which stops it, and `check_abandoned` one in a thread, which nothing
can stop: it is abandoned, and what it returns later is refused.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, Final

import psutil
import pytest

from async_cache import AsyncCacheJob, guards, signals
from async_cache.dispatchers.base import Refresh
from async_cache.dispatchers.thread import MAX_THREADS, ThreadDispatcher
from async_cache.exceptions import FetchUnavailable
from async_cache.policy import BACKOFF_CAP, BACKOFF_FIRST, expiry
from async_cache.press import _refresh
from async_cache.testing import Clock, freeze
from tests.dispatchers.support import eventually, heard
from tests.faults.breaks import Break, caught
from tests.faults.fleet import Fleet, fleet_over
from tests.faults.scale import count, judge, patience
from tests.faults.worker_jobs import BREAKS, LEASE, ORDERS, STARTED, Hanging

TTL, GRACE = 60.0, 600.0
HOUR = 3600.0
SLOW_SECONDS = 20.0


class Refused(Exception):
    """What the misbehaving fetch raises."""


@dataclass
class History:
    """What has happened to one key, on the fake clock.

    Attributes:
        begun: When each fetch began.
        failed: When each failed fetch ended.
        success: When the last fetch that succeeded began.
        failures_in_a_row: Since then.
        problems: Broken promises.
    """

    begun: list[float] = field(default_factory=list)
    failed: list[float] = field(default_factory=list)
    success: float = 0.0
    failures_in_a_row: int = 0
    problems: list[str] = field(default_factory=list)


class Moody(AsyncCacheJob[str]):
    """Succeeds once; then does what the test says."""

    ttl = TTL
    grace = GRACE
    jitter = 0
    clock: ClassVar[Clock]
    mood: ClassVar[Callable[[int], bool]]
    seconds: ClassVar[float] = 0.0
    histories: ClassVar[dict[str, History]] = {}

    def fetch(self, key: str) -> str:
        history = self.histories.setdefault(key, History())
        now = self.clock.now()
        if history.failures_in_a_row:
            # The promise, by a reckoning of our own: half a step at least lies between two.
            step = min(BACKOFF_CAP, BACKOFF_FIRST * 2 ** min(history.failures_in_a_row, 7) / 2)
            passed = now - history.failed[-1]
            if passed < step / 2:
                history.problems.append(f"fetched again after {passed:g} s of {step:g} s")
        history.begun.append(now)
        self.clock.advance(self.seconds)
        if len(history.begun) > 1 and not type(self).mood(len(history.begun)):
            history.failures_in_a_row += 1
            history.failed.append(self.clock.now())
            raise Refused(key)
        history.failures_in_a_row = 0
        history.success = now
        return f"{key} {now}"


MOODS: Final[Mapping[str, Callable[[int], bool]]] = MappingProxyType(
    {
        "raises": lambda number: False,
        "alternates": lambda number: number % 2 == 0,
        "recovers": lambda number: number % 15 == 0,
        "is slow": lambda number: True,
        "is slow and raises": lambda number: False,
    }
)


@pytest.fixture(params=["default", "redis"])
def alias(request: pytest.FixtureRequest, settings: Any, redis_caches: str) -> str:
    alias: str = request.param
    settings.ASYNC_CACHE = {"CACHE": alias, "DISPATCHER": "immediate", "IO_TIMEOUT": 10}
    return alias


def check_hour(mood: str, keys: int, step: float) -> None:
    """Read for an hour while the fetch misbehaves; what is served is never too old."""
    label = f"fetches/{mood}"
    Moody.mood, Moody.histories = staticmethod(MOODS[mood]), {}
    Moody.seconds = SLOW_SECONDS if "slow" in mood else 0.0
    job, names = Moody(), [f"{mood}{number}" for number in range(keys)]
    served = unserved = 0
    with freeze() as clock, heard(signals.refresh_failed) as failures:
        Moody.clock = clock
        guards.forget()
        ends = clock.now() + HOUR
        for name in names:
            job.get(name)
        while clock.now() < ends:
            for name in names:
                history = Moody.histories[name]
                asked_at, success = clock.now(), history.success
                try:
                    value = job.get(name)
                except (Refused, FetchUnavailable):
                    unserved += 1
                    age = asked_at - success
                    assert age >= TTL + GRACE, f"not served though only {age:g} s old"
                    continue
                served += 1
                age = asked_at - float(value.split()[-1])
                assert age < TTL + GRACE, f"served {age - TTL - GRACE:g} s past its bound"
            clock.advance(step)
    problems = [problem for one in Moody.histories.values() for problem in one.problems]
    assert not problems, problems[:3]
    fetches = sum(len(one.begun) for one in Moody.histories.values())
    for one in failures:
        assert one["retry_after"] <= BACKOFF_CAP
    assert served
    assert bool(unserved) == (mood in ("raises", "is slow and raises")), "who was served?"
    # Steps are half of what they are called at least, and a few are shorter than the cap.
    bound = HOUR / (BACKOFF_CAP / 2) + 12
    judge(label, "fetches a key in the hour", fetches / keys, bound, generous=bound)
    if mood == "raises":
        assert fetches / keys > HOUR / BACKOFF_CAP / 2, "it is hardly tried any more"


@pytest.mark.parametrize("mood", MOODS)
def test_an_hour_of_a_fetch_that(alias: str, mood: str) -> None:
    check_hour(mood, count(2, 3), count(5, 1))


# --- fetches that hang --------------------------------------------------------------------------


@pytest.fixture
def fleet(settings: Any, redis_caches: str) -> Iterator[Fleet]:
    settings.ASYNC_CACHE = {"CACHE": "redis", "DISPATCHER": "celery", "IO_TIMEOUT": 10}
    with fleet_over(redis_caches) as made:
        yield made


def check_hung(fleet: Fleet) -> None:
    """Hang a fetch in the only child of a worker: it is stopped, and the child goes on."""
    job, label = Hanging(), "fetches/hangs under prefork"
    fleet.start(concurrency=1)
    job.set("old", "key")
    fleet.board.hset(ORDERS, "key", "hang")
    assert job.get("key") == "old"
    pid = started(fleet)
    begun = time.monotonic()
    error = eventually(lambda: job.explain("key").last_error, patience(20))
    judge(label, "stopped, s", time.monotonic() - begun, job.fetch_timeout + 1, generous=8)
    assert error == "async_cache.exceptions.FetchTimeout"
    assert job.get("key") == "old"
    fleet.board.delete(ORDERS)
    eventually(lambda: job.get("key") != "old", 10)
    assert started(fleet) == pid, "another child has fetched: the first was lost"


def check_deaf(fleet: Fleet) -> None:
    """Hang a fetch that cannot be stopped: another child fetches when its lease has ended."""
    job, label = Hanging(), "fetches/hangs and does not listen"
    fleet.start(concurrency=2)
    job.set("old", "key")
    fleet.board.hset(ORDERS, "key", "deaf")
    assert job.get("key") == "old"
    pid = started(fleet)
    begun = time.monotonic()
    fleet.board.delete(ORDERS)
    eventually(lambda: job.get("key") != "old", 20)
    bound = job.fetch_timeout + LEASE + 1
    judge(label, "fresh again, s", time.monotonic() - begun, bound, generous=20)
    assert started(fleet) != pid
    # Past the hard limit it is killed.
    eventually(lambda: not psutil.pid_exists(pid), 30)


def started(fleet: Fleet) -> int:
    """Wait for a fetch to begin; return the process it runs in."""
    told = fleet.take(STARTED, 30)
    assert told is not None, "no fetch has begun"
    return int(told.split()[2])


class Stuck(AsyncCacheJob[str]):
    """Hangs in this process until the test lets it go on."""

    ttl = 0
    grace = 3600
    lease = 0.3
    fetch_timeout = 0.5
    hung: ClassVar[set[str]] = set()
    begun: ClassVar[list[str]] = []
    opened: ClassVar[threading.Event] = threading.Event()

    def fetch(self, key: str) -> str:
        self.begun.append(key)
        if key in self.hung:
            self.hung.discard(key)
            assert self.opened.wait(60)
            return f"{key} late"
        return f"{key} new"


def check_abandoned() -> None:
    """Hang a fetch in each thread: others go on, and what the hung ones return is refused."""
    job, label = Stuck(), "fetches/hangs in a thread"
    Stuck.opened, Stuck.begun = threading.Event(), []
    names = [f"stuck{number}" for number in range(MAX_THREADS)]
    Stuck.hung = set(names)
    others = ["other0", "other1"]
    for name in names + others:
        job.set(f"{name} old", name)
    try:
        for name in names:
            assert job.get(name) == f"{name} old"
        eventually(lambda: len(Stuck.begun) == len(names), 10)
        begun = time.monotonic()
        for name in names + others:
            eventually(partial(_is_new, name), patience(10))
        bound = job.fetch_timeout + job.lease + 1.5
        judge(label, "all fresh, s", time.monotonic() - begun, bound, generous=10)
        with heard(signals.refresh_refused) as refused:
            Stuck.opened.set()
            eventually(lambda: len(refused) == len(names), patience(10))
        assert {one["reason"] for one in refused} == {"lost"}
        for name in names:
            assert job.peek(name) == f"{name} new", "a late answer was stored"
    finally:
        Stuck.opened.set()


def _is_new(name: str) -> bool:
    return Stuck().get(name) == f"{name} new"


def test_a_fetch_that_hangs_is_stopped(fleet: Fleet) -> None:
    check_hung(fleet)


@pytest.mark.faults
def test_a_fetch_that_hangs_and_does_not_listen(fleet: Fleet) -> None:
    check_deaf(fleet)


def test_a_fetch_that_hangs_in_a_thread_is_abandoned(settings: Any, redis_caches: str) -> None:
    settings.ASYNC_CACHE = {"CACHE": "redis", "DISPATCHER": "thread", "IO_TIMEOUT": 10}
    check_abandoned()


# --- breaks -------------------------------------------------------------------------------------


def _later(started: float, *options: float) -> tuple[float, float]:
    return expiry(started + SLOW_SECONDS, *options)


def _without_limit(*given: Any) -> Refresh:
    return _refresh(*given)._replace(fetch_timeout=600.0)


def _counting_all(dispatcher: ThreadDispatcher) -> int:
    return MAX_THREADS - len(dispatcher._ends)


@pytest.mark.faults
@pytest.mark.parametrize("alias", ["redis"], indirect=True)
@pytest.mark.parametrize(
    ("broken", "mood"),
    [
        (
            Break("nothing backs off", "async_cache.policy.Failure.remaining", lambda self, now: 0),
            "raises",
        ),
        (
            Break("age counts from the end", "async_cache.sealing.expiry", _later),
            "is slow and raises",
        ),
        (
            Break("a failure is the end", "async_cache.policy.BACKOFF_FIRST", HOUR),
            "recovers",
        ),
    ],
    ids=str,
)
def test_the_hour_notices(alias: str, broken: Break, mood: str) -> None:
    caught(broken, lambda: check_hour(mood, 2, 2))


@pytest.mark.faults
def test_the_check_notices_a_fetch_without_limit(fleet: Fleet) -> None:
    broken = Break("no fetch has a limit", "async_cache.press._refresh", _without_limit)
    caught(broken, lambda: check_hung(fleet))


@pytest.mark.faults
@pytest.mark.parametrize(
    "broken",
    [
        Break("commits are not fenced", *BREAKS["commits are not fenced"]),
        Break(
            "threads that hang count",
            "async_cache.dispatchers.thread.ThreadDispatcher._room",
            _counting_all,
        ),
    ],
    ids=str,
)
def test_the_check_notices_threads(settings: Any, redis_caches: str, broken: Break) -> None:
    settings.ASYNC_CACHE = {"CACHE": "redis", "DISPATCHER": "thread", "IO_TIMEOUT": 10}
    caught(broken, check_abandoned)
