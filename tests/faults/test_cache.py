"""Row "cache": whatever the cache does, a value in hand is returned, and nothing stays leased.

`check_outage` reads cold keys while the cache is away, `check_leases` loses one answer of each
protocol step, `check_old_value` lets a write be refused, `check_flush` empties the cache under
readers.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from async_cache import MISSING, AsyncCacheJob, owed
from async_cache.exceptions import StoreUnavailable
from async_cache.flights import Flight
from async_cache.stores.scripts import CLAIM, COMMIT, RELEASE
from tests.dispatchers.support import eventually
from tests.faults.breaks import Break, caught
from tests.faults.caches import KINDS, OUTAGES, FaultyCache, faulty_cache
from tests.faults.jobs import fetched
from tests.faults.scale import count, judge

READERS = 16
FETCH_SECONDS = 0.05


class Kept(AsyncCacheJob[bytes]):
    """Fresh for long; what it fetches names the fetch."""

    ttl = 3600
    lease = 30
    wait = 5
    size = 0

    def fetch(self, key: str) -> bytes:
        fetched.append(key)
        time.sleep(FETCH_SECONDS)
        return f"{key} {len(fetched)} ".encode() + os.urandom(self.size)


class Large(Kept):
    """More than Memcached takes."""

    size = 1_500_000


class Impatient(Kept):
    """Never answers with what is stale, if it can help it."""

    ttl = 0
    max_stale = 0
    grace = 3600


IN_TURN = [
    pytest.param(kind, marks=[pytest.mark.faults] if kind == "RedisCache" else []) for kind in KINDS
]
"""Both Redis backends have one store: the small part of the suite tries one of them."""


@pytest.fixture(params=IN_TURN)
def cache(request: pytest.FixtureRequest, settings: Any) -> Iterator[FaultyCache]:
    with faulty_cache(request.param, settings) as made:
        yield made
    owed.reset()


@pytest.fixture(params=IN_TURN)
def patient_cache(request: pytest.FixtureRequest, settings: Any) -> Iterator[FaultyCache]:
    """Wait for a cache that is well, however busy the machine is."""
    with faulty_cache(request.param, settings, 5.0) as made:
        yield made


only_redis = pytest.mark.parametrize("cache", IN_TURN[:2], indirect=True)


def read_together(job: AsyncCacheJob[bytes], key: str, readers: int) -> tuple[list[bytes], float]:
    """Read one key in many threads at once; return the values and the longest wait."""
    meet = threading.Barrier(readers)

    def read() -> tuple[bytes, float]:
        meet.wait(10)
        begun = time.perf_counter()
        return job.get(key), time.perf_counter() - begun

    with ThreadPoolExecutor(readers) as pool:
        answers = [one.result(20) for one in [pool.submit(read) for _ in range(readers)]]
    return [value for value, _ in answers], max(seconds for _, seconds in answers)


def read_in_turn(job: AsyncCacheJob[bytes], key: str, readers: int) -> list[bytes]:
    """Read one key in many threads, each a moment after the one before."""

    def read(number: int) -> bytes:
        time.sleep(number * 0.004)
        return job.get(key)

    with ThreadPoolExecutor(readers) as pool:
        return list(pool.map(read, range(readers)))


def check_outage(cache: FaultyCache, name: str) -> None:
    """Read cold keys while the cache is away: one fetch each, within the bound, stored nowhere."""
    label, job = f"cache {cache.kind}/{name}", Kept()
    job.get("warm")
    OUTAGES[name](cache)
    longest = 0.0
    for number in range(count(2, 6)):
        cache.forgive()  # each meets the outage anew, as a process that has just begun does
        values, seconds = read_together(job, f"cold{number}", READERS)
        longest = max(longest, seconds - FETCH_SECONDS)
        assert len(set(values)) == 1
        assert fetched.count(f"cold{number}") == 1, "more than one direct fetch"
    judge(label, "longest wait beside the fetch, ms", 1000 * longest, 550, generous=5000)
    cache.forgive()
    assert len(set(read_in_turn(job, "turns", READERS))) == 1
    # Left alone after the failure: nobody waits for it again.
    begun = time.perf_counter()
    job.get("next")
    seconds = time.perf_counter() - begun - FETCH_SECONDS
    judge(label, "the next read, ms", 1000 * seconds, 50, generous=1000)
    cache.proxy.restore()
    begun = time.monotonic()
    eventually(lambda: _stores(job, "back"), 20)
    judge(label, "stored again, s", time.monotonic() - begun, 3, generous=15)
    keys = [f"cold{number}" for number in range(count(2, 6))]
    eventually(lambda: not any(cache.holders(job, keys)), 3)


def _stores(job: AsyncCacheJob[bytes], key: str) -> bool:
    job.get(key)
    return job.peek(key) is not MISSING


def losses(cache: FaultyCache) -> list[bytes]:
    """Return what marks the steps of the protocol whose answers are to be lost."""
    if cache.kind == "Memcached":
        return [b"add ", b"set ", b"delete "]
    return [CLAIM.sha, COMMIT.sha, RELEASE.sha]


def check_leases(cache: FaultyCache) -> None:
    """Lose one answer in each of 50 refreshes: no lease is left behind."""
    job = Impatient()
    keys = [f"key{number}" for number in range(count(9, 50))]
    steps = losses(cache)
    for number, key in enumerate(keys):
        job.set(b"old", key)
        dropped = cache.proxy.counts.dropped
        cache.proxy.drop_reply(steps[number % len(steps)])
        begun = time.perf_counter()
        value = job.get(key)
        seconds = time.perf_counter() - begun - FETCH_SECONDS
        judge(f"cache {cache.kind}/reply lost", "wait, ms", 1000 * seconds, 550, generous=5000)
        assert value == b"old" or value.startswith(key.encode())
        cache.proxy.drop_reply(times=0)
        if cache.proxy.counts.dropped > dropped:
            cache.forgive()
    assert cache.proxy.counts.dropped >= len(keys) / 2
    begun = time.monotonic()
    eventually(lambda: not any(cache.holders(job, keys)), 5)
    judge(
        f"cache {cache.kind}/reply lost", "leases back, s", time.monotonic() - begun, 2, generous=5
    )


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("refused", "blackholed") else pytest.mark.faults)
        for name in OUTAGES
    ],
)
def test_readers_get_values_while_the_cache_is_away(cache: FaultyCache, name: str) -> None:
    check_outage(cache, name)


def test_no_lease_is_left_behind_when_an_answer_is_lost(cache: FaultyCache) -> None:
    check_leases(cache)


# --- refused writes -----------------------------------------------------------------------------


def refuse_memory(cache: FaultyCache) -> Callable[[], None]:
    """Use up the memory of a Redis that evicts nothing."""
    with cache.admin() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)

    def allow() -> None:
        with cache.admin() as client:
            client.config_set("maxmemory", 0)

    return allow


def refuse_writes(cache: FaultyCache) -> Callable[[], None]:
    """Make the server a read-only replica of one that it does not find."""
    with cache.admin() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")

    def allow() -> None:
        with cache.admin() as client:
            client.execute_command("REPLICAOF", "NO", "ONE")

    return allow


REFUSALS = {"OOM": refuse_memory, "read-only replica": refuse_writes}


def check_old_value(cache: FaultyCache, job: AsyncCacheJob[bytes], refuse: Any) -> None:
    """Refresh while writes are refused: the caller has the new value, the cache the old one."""
    keys = [f"key{number}" for number in range(count(5, 50))]
    for key in keys:
        job.set(b"old", key)
    allow = refuse(cache) if refuse else lambda: None
    for key in keys:
        assert job.get(key) == b"old"
        begun = time.perf_counter()
        assert job.refresh(key).startswith(key.encode()), "the value in hand is returned"
        seconds = time.perf_counter() - begun - FETCH_SECONDS
        judge(f"cache {cache.kind}/refused", "wait, ms", 1000 * seconds, 550, generous=5000)
        assert job.peek(key) == b"old", "a failed write has destroyed the old value"
    cold = [f"cold{number}" for number in range(5)]
    for key in cold:
        assert job.get(key).startswith(key.encode())
    allow()
    assert [job.peek(key) for key in keys] == [b"old"] * len(keys)
    eventually(lambda: not any(cache.holders(job, [*keys, *cold])), 3)


@only_redis
@pytest.mark.parametrize("name", REFUSALS)
def test_a_refused_write_destroys_nothing(cache: FaultyCache, name: str) -> None:
    check_old_value(cache, Kept(), REFUSALS[name])


@pytest.mark.parametrize("cache", ["Memcached"], indirect=True)
def test_a_value_too_large_destroys_nothing(cache: FaultyCache) -> None:
    check_old_value(cache, Large(), None)


# --- lost data ----------------------------------------------------------------------------------


def check_flush(cache: FaultyCache) -> None:
    """Empty the cache, then let 64 callers ask for one key: one of them fetches."""
    job = Kept()
    for number in range(count(2, 10)):
        job.get("key")
        eventually(lambda: _gone(cache, job, "key"))
        before = len(fetched)
        values, _ = read_together(job, "key", 64)
        assert len(set(values)) == 1
        assert len(fetched) - before == 1, f"{len(fetched) - before} fetches in round {number}"


def check_flushes_under_load(cache: FaultyCache, lose: Callable[[FaultyCache], None]) -> None:
    """Lose data again and again under readers and a deleter: no error, nothing deleted returns."""
    job = Kept()
    keys = [f"key{number}" for number in range(8)]
    deleted = dict.fromkeys(keys, 0)
    ends = time.monotonic() + count(1, 2)
    problems: list[object] = []

    def read() -> None:
        while time.monotonic() < ends:
            for key in keys:
                floor = deleted[key]
                try:
                    value = job.get(key)
                except Exception as error:  # noqa: BLE001 - counted
                    problems.append(error)
                    continue
                if int(value.split()[1]) <= floor:
                    problems.append((key, value, floor))

    def delete() -> None:
        while time.monotonic() < ends:
            for key in keys:
                floor = len(fetched)
                try:
                    job.delete(key)
                except StoreUnavailable:
                    continue
                time.sleep(0.02)  # who waits for a fetch that ended with the delete has its value
                deleted[key] = floor

    def disturb() -> None:
        while time.monotonic() < ends:
            lose(cache)
            time.sleep(0.05)

    run_all([read] * 8 + [delete, disturb])
    assert not problems, problems[:3]


def run_all(works: Sequence[Callable[[], None]]) -> None:
    """Run functions in threads of their own; raise what they raise."""
    with ThreadPoolExecutor(len(works)) as pool:
        for done in [pool.submit(work) for work in works]:
            done.result(60)


def _flush(cache: FaultyCache) -> None:
    if cache.kind == "Memcached":
        from tests.servers import exchange

        exchange(("127.0.0.1", cache.server.port), b"flush_all\r\n")
    else:
        with cache.admin() as client:
            client.flushall()


def _gone(cache: FaultyCache, job: AsyncCacheJob[bytes], key: str) -> bool:
    _flush(cache)
    return job.peek(key) is MISSING  # Memcached's clock knows whole seconds only


def evict_half(cache: FaultyCache) -> None:
    """Drop every second key, stamps and leases included."""
    with cache.admin() as client:
        names: list[bytes] = sorted(client.scan_iter())
        half = [name for name in names if os.urandom(1)[0] % 2]
        if half:
            client.delete(*half)


def test_one_fetch_after_the_cache_was_emptied(patient_cache: FaultyCache) -> None:
    check_flush(patient_cache)


def test_readers_while_the_cache_is_emptied_again_and_again(patient_cache: FaultyCache) -> None:
    check_flushes_under_load(patient_cache, _flush)


@pytest.mark.parametrize("patient_cache", IN_TURN[:2], indirect=True)
def test_readers_while_half_of_the_keys_are_evicted(patient_cache: FaultyCache) -> None:
    check_flushes_under_load(patient_cache, evict_half)


def check_restart(cache: FaultyCache) -> None:
    """Kill the cache under readers and start it, empty, again."""
    job = Kept()
    ends = time.monotonic() + 2
    stop = threading.Event()
    seconds: list[float] = []

    def read() -> None:
        while not stop.is_set():
            begun = time.perf_counter()
            assert job.get("key").startswith(b"key ")
            seconds.append(time.perf_counter() - begun)

    def restart() -> None:
        try:
            cache.server.kill()
            while time.monotonic() < ends:
                time.sleep(0.05)
            cache.server.start()
            eventually(lambda: _stores(job, "key"), 20)
        finally:
            stop.set()

    run_all([read, read, restart])
    label = f"cache {cache.kind}/restarted"
    longest = max(seconds) - FETCH_SECONDS
    judge(label, "longest wait beside the fetch, ms", 1000 * longest, 550, generous=5000)
    assert not any(cache.holders(job, ["key"]))


@pytest.mark.faults
def test_readers_while_the_cache_is_restarted(cache: FaultyCache) -> None:
    check_restart(cache)


# --- breaks -------------------------------------------------------------------------------------


def _check_blackhole(cache: FaultyCache) -> None:
    check_outage(cache, "blackholed")


def _alone(place: Any, *, late: bool = False) -> tuple[Flight, bool]:
    return Flight(), True


def _ignore(breaker: Any, now: float) -> None:
    """Note no failure."""


def _give_up(runtime: Any, attempts: Any) -> Any:
    raise AssertionError("the reader gets no value")
    yield


@pytest.mark.faults
@pytest.mark.parametrize("cache", ["Memcached"], indirect=True)
def test_a_value_written_in_place_is_noticed(cache: FaultyCache) -> None:
    broken = Break(
        "large values are not tried aside",
        "async_cache.stores.django.MemcachedStore._try_aside",
        lambda store, values: None,
    )
    caught(broken, lambda: check_old_value(cache, Large(), None))


@pytest.mark.faults
@pytest.mark.parametrize("cache", ["django-redis"], indirect=True)
@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (Break("lost leases stay", "async_cache.owed.owe", lambda *args: None), check_leases),
        (Break("each reader fetches", "async_cache.flights.join", _alone), _check_blackhole),
        (
            Break("the breaker is always closed", "async_cache.breaker.Breaker.failed", _ignore),
            _check_blackhole,
        ),
        (
            Break("readers see the outage", "async_cache.refresh.fetch_directly", _give_up),
            _check_blackhole,
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, Break) else value.__name__,
)
def test_the_checks_notice(
    cache: FaultyCache, broken: Break, check: Callable[[FaultyCache], None]
) -> None:
    caught(broken, lambda: check(cache))
