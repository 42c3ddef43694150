"""Row "coroutines": who is cancelled, forked or beside a thread gets no other's reply.

`check_cancelled` cancels readers at every place where they wait, beside others that are not;
`check_loops` throws whole event loops away; `check_tenants` reads as two tenants at once, far from
the cache; `check_fork` forks between uses; `check_mixed` lets threads, loops and cancelled readers
share one cache. A reply that reached another would not open there: it is counted as rejected, or
as a fetch too many.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.cache import caches

from async_cache import AsyncCacheJob, signals
from async_cache.exceptions import StoreUnavailable
from async_cache.stores.aredis import AsyncRedisStore
from async_cache.stores.registry import get_async_store, reset_stores
from tests.conftest import flush
from tests.dispatchers.support import heard
from tests.faults.breaks import Break, caught
from tests.faults.coroutines import Cut, Named, Plain, Stale, check_connections, use_tenant
from tests.faults.proxy import Proxy, address_of, through
from tests.faults.scale import count, judge
from tests.servers import RedisServer

ALIAS = "coroutines"
SECONDS = 60.0
TENANTS = ("one", "two")
BATCH = 20


class Place:
    """A Redis server of the test's own, and the proxy before it."""

    def __init__(self, server: RedisServer, proxy: Proxy) -> None:
        self.server = server
        self.proxy = proxy

    def empty(self) -> None:
        """Begin anew: no data, no connections, no counts."""
        reset_stores()
        caches.close_all()
        flush(self.server.url)
        Plain.fetched.clear()

    def check(self) -> int:
        """Check that no connection is left; return how many were kept for later."""
        return check_connections(ALIAS, self.server.url)


@pytest.fixture
def place(redis_server: RedisServer, settings: Any) -> Iterator[Place]:
    with Proxy(address_of(redis_server.url)) as proxy:
        entry = {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": through(redis_server.url, proxy),
        }
        settings.CACHES = {**settings.CACHES, ALIAS: entry}
        settings.ASYNC_CACHE = {"CACHE": ALIAS, "DISPATCHER": "immediate", "IO_TIMEOUT": 120}
        yield Place(redis_server, proxy)
        reset_stores()
        caches.close_all()


# --- cancelled readers ----------------------------------------------------------------------------


async def _one_batch(chance: random.Random, number: int, longest: dict[str, int]) -> int:
    """Read together, some cancelled on their way; return how many were."""
    kind = chance.choice(list(longest))
    job: AsyncCacheJob[str] = {"stale": Stale(), "plain": Plain()}.get(kind, Named())
    if kind in ("hit", "stale"):
        await job.aset(Plain.value(f"key{number}"), f"key{number}")
    if kind == "first":
        get_async_store(ALIAS).close()  # its readers have to connect
    cuts = []
    for place in range(BATCH):
        own = f"key{number}" if place % 2 else f"key{number}.{place % 8}"
        at = chance.randint(1, longest[kind] + 1) if place % 4 else 0
        work = job.aget(own) if kind != "many" else job.aget_many([(own,), (f"key{number}",)])
        cuts.append((own, Cut(work, at)))
    tasks = [asyncio.ensure_future(cut.run()) for _, cut in cuts]
    async with asyncio.timeout(SECONDS):
        answers = await asyncio.gather(*tasks, return_exceptions=True)
    for (own, cut), answer in zip(cuts, answers, strict=True):
        if isinstance(answer, asyncio.CancelledError):
            assert cut.at, "a reader was cancelled with another"
            continue
        expected: Any = Plain.value(own)
        if kind == "many":
            expected = [expected, Plain.value(f"key{number}")]
        assert answer == expected
        longest[kind] = max(longest[kind], cut.waits)
    if kind not in ("stale",):
        # Those who were cancelled have taken no refresh with them.
        assert set(Plain.fetched.values()) <= {1}, "a shared refresh did not survive"
    Plain.fetched.clear()
    return sum(isinstance(answer, asyncio.CancelledError) for answer in answers)


def check_cancelled(place: Place, cancellations: int) -> None:
    """Cancel readers at each place where they wait."""
    place.empty()
    longest = {"hit": 2, "cold": 6, "plain": 4, "stale": 4, "many": 6, "first": 3}

    async def story() -> int:
        chance, done, number = random.Random(7), 0, 0
        while done < cancellations:
            number += 1
            done += await _one_batch(chance, number, longest)
        return done

    with heard(signals.entry_rejected, signals.store_failed) as troubles:
        try:
            done = asyncio.run(story())
        except StoreUnavailable as error:
            raise AssertionError("the cache, which is well, does not answer") from error
    assert not troubles, troubles[:3]
    kept = place.check()
    assert kept > 0
    judge("coroutines/cancelled", f"crossed or leaked of {done}", 0, 0, generous=0)


@pytest.mark.timeout(300)
def test_readers_cancelled_wherever_they_wait(place: Place) -> None:
    check_cancelled(place, count(400, 10_000))


def check_loops(place: Place, loops: int) -> None:
    """End event loops with readers on their way; the next loop finds nothing of theirs."""
    place.empty()
    chance = random.Random(11)

    async def abandoned(number: int) -> None:
        for reader in range(4):
            _readers.append(asyncio.ensure_future(Named().aget(f"key{number}.{reader}")))
        for _ in range(chance.randint(0, 12)):
            await asyncio.sleep(0)

    with heard(signals.entry_rejected) as rejected:
        for number in range(loops):
            _readers.clear()
            asyncio.run(abandoned(number))
            assert asyncio.run(Named().aget(f"other{number}")) == Plain.value(f"other{number}")
    assert not rejected
    place.check()


_readers: list[asyncio.Future[Any]] = []


def test_event_loops_thrown_away(place: Place) -> None:
    check_loops(place, count(10, 200))


# --- tenants --------------------------------------------------------------------------------------


def check_tenants(place: Place, readers: int, keys: int = 20) -> None:
    """Read as two tenants at once, 100 ms away from the cache."""
    place.empty()
    place.proxy.delay(0.05)

    async def read(number: int) -> None:
        with use_tenant(TENANTS[number % 2]):
            key = f"key{number % keys}"
            assert await Named().aget(key) == Plain.value(key)
            assert await Plain().aget(f"plain {key}") == Plain.value(f"plain {key}")

    async def story() -> None:
        async with asyncio.timeout(5 * SECONDS):
            await asyncio.gather(*(read(number) for number in range(readers)))

    try:
        with heard(signals.entry_rejected, signals.store_failed) as troubles:
            begun = time.monotonic()
            asyncio.run(story())
            seconds = time.monotonic() - begun
    finally:
        place.proxy.delay(0)
    assert not troubles, troubles[:3]
    assert set(Plain.fetched.values()) == {1}, Plain.fetched.most_common(3)
    assert len(Plain.fetched) == 2 * keys
    judge("coroutines/tenants", f"{readers} readers, s", seconds, 120, generous=120)
    place.check()


@pytest.mark.timeout(300)
def test_two_tenants_far_from_the_cache(place: Place) -> None:
    check_tenants(place, count(60, 1000))


# --- processes and threads ------------------------------------------------------------------------


def _in_child(work: Callable[[], None]) -> bool:
    """Do something in a forked child; tell whether it went well."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        try:
            work()
        except BaseException:  # noqa: BLE001 - told by the exit code
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


def _reads(name: str, keys: int) -> None:
    for number in range(keys):
        key = f"key{number}"
        assert Plain().get(key) == Plain.value(key)
        assert Plain().get(f"{name}{number}") == Plain.value(f"{name}{number}")


async def _areads(name: str, keys: int, job: type[Plain] = Named) -> None:
    wanted = [f"key{number}" for number in range(keys)] + [f"{name}{n}" for n in range(keys)]
    assert await asyncio.gather(*(job().aget(key) for key in wanted)) == [
        Plain.value(key) for key in wanted
    ]


def check_fork(place: Place, forks: int) -> None:
    """Fork after the connections have been used, read on both sides, and go on."""
    place.empty()
    _reads("parent", 5)
    asyncio.run(_areads("parent", 5))
    with heard(signals.entry_rejected, signals.store_failed) as troubles:
        for number in range(forks):
            stop = threading.Event()

            def beside(stop: threading.Event = stop, number: int = number) -> None:
                while not stop.is_set():
                    _reads(f"beside{number}", 3)

            def child(number: int = number) -> None:
                _reads(f"child{number}", 5)
                # Hits only: asgiref's thread for what is not asynchronous is its parent's.
                asyncio.run(_areads(f"child{number}", 5, Plain))

            assert _in_child(child), "a child of a fork got another's reply, or none"
            thread = threading.Thread(target=beside)
            thread.start()
            try:
                assert _in_child(child), "a child got another's reply while its parent read"
            finally:
                stop.set()
                thread.join(SECONDS)
            _reads("parent", 5)
            asyncio.run(_areads("parent", 5))
    assert not troubles, troubles[:3]
    place.check()


def test_forks_after_use(place: Place) -> None:
    check_fork(place, count(2, 50))


def check_mixed(place: Place, seconds: float) -> None:
    """Read in threads, in event loops of threads and beneath ``async_to_sync``, some cancelled."""
    place.empty()
    ends = time.monotonic() + seconds
    problems: list[BaseException] = []

    def plainly(tenant: str, number: int) -> None:
        _reads(f"{tenant}{number % 7}", 3)

    async def story(tenant: str, number: int) -> None:
        chance = random.Random(number)
        keys = [f"{tenant}{chance.randint(0, 20)}" for _ in range(10)]
        cuts = [Cut(Named().aget(key), chance.randint(0, 8)) for key in keys]
        answers = await asyncio.gather(*(cut.run() for cut in cuts), return_exceptions=True)
        for key, cut, answer in zip(keys, cuts, answers, strict=True):
            if not (cut.at and isinstance(answer, asyncio.CancelledError)):
                assert answer == Plain.value(key)

    def in_loops(tenant: str, number: int) -> None:
        asyncio.run(story(tenant, number))

    def beneath(tenant: str, number: int) -> None:
        async_to_sync(story)(tenant, number)

    def run(way: Callable[[str, int], None], tenant: str) -> None:
        number = 0
        try:
            with use_tenant(tenant):
                while time.monotonic() < ends:
                    number += 1
                    way(tenant, number)
        except BaseException as error:  # noqa: BLE001 - told below
            problems.append(error)
        finally:
            caches.close_all()

    with heard(signals.entry_rejected, signals.store_failed) as troubles:
        ways = [(way, tenant) for way in (plainly, in_loops, beneath) for tenant in TENANTS * 2]
        threads = [threading.Thread(target=run, args=one) for one in ways]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(seconds + SECONDS)
    assert not problems, problems[:3]
    assert not troubles, troubles[:3]
    place.check()


def test_threads_and_event_loops_mixed(place: Place) -> None:
    check_mixed(place, count(1, 15))


# --- breaks ---------------------------------------------------------------------------------------


async def _used_again(store: AsyncRedisStore, link: Any, request: Any) -> list[Any]:
    """Give a connection back whatever has become of it."""
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_sendall(link.sock, request.data)
        replies: list[Any] = []
        while len(replies) < request.replies:
            reply = link.gets()
            if isinstance(reply, list | bytes | int):
                replies.append(reply)
            else:
                link.feed(await loop.sock_recv(link.sock, 65_536))
    finally:
        store._pool.give_back(link)
    return replies


_leaked: list[Any] = []


async def _unshielded(work: Any) -> Any:
    return await work


USED_AGAIN = Break(
    "a cancelled reader's connection is used again",
    "async_cache.stores.aredis.AsyncRedisStore._use",
    _used_again,
)
LEAKED = Break(
    "connections made for those who left are kept",
    "async_cache.stores.aredis._drop",
    _leaked.append,
)
UNSHIELDED = Break("a cancelled reader takes the refresh", "async_cache.cold.shielded", _unshielded)


@pytest.mark.faults
@pytest.mark.parametrize("broken", [USED_AGAIN, LEAKED, UNSHIELDED], ids=str)
def test_the_check_of_cancelled_readers_notices(place: Place, broken: Break, settings: Any) -> None:
    # What is broken here must not be waited for.
    jobs = {f"{job.__module__}.{job.__qualname__}": {"wait": 2} for job in (Named, Plain, Stale)}
    settings.ASYNC_CACHE = {**settings.ASYNC_CACHE, "IO_TIMEOUT": 2, "JOBS": jobs}
    caught(broken, lambda: check_cancelled(place, 2000))
    _leaked.clear()


@pytest.mark.faults
def test_the_check_of_tenants_notices_a_key_without_tenant(place: Place) -> None:
    broken = Break(
        "keys know no tenant",
        "async_cache.vary.read",
        lambda names: tuple((name, "nobody") for name in names),
    )
    caught(broken, lambda: check_tenants(place, 40))
