"""The Redis store: faults of the server, scripts, connections."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from django.core.cache import caches
from redis.connection import UnixDomainSocketConnection

from async_cache.exceptions import StoreUnavailable
from async_cache.stores.aredis import AsyncRedisStore
from async_cache.stores.base import Outcome, Phase
from async_cache.stores.pool import MAX_IDLE, Link, Pool, PublicLink
from async_cache.stores.redis import RedisStore, key_maker
from async_cache.stores.registry import get_async_store, get_store
from async_cache.stores.threaded import ThreadedStore
from tests.servers import RedisServer
from tests.stores.test_contract import HARD, SOFT, ask, entry, win
from tests.workers import PATIENCE

BACKENDS = ["django_redis.cache.RedisCache", "django.core.cache.backends.redis.RedisCache"]


def use(settings: Any, url: str, backend: str = BACKENDS[0], **options: Any) -> RedisStore:
    caches_ = {"default": {"BACKEND": backend, "LOCATION": url, **options}}
    settings.CACHES = {**settings.CACHES, **caches_}
    store = get_store("default")
    assert isinstance(store, RedisStore)
    return store


@pytest.fixture
def store(settings: Any, redis_url: str) -> RedisStore:
    return use(settings, redis_url)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def own(settings: Any, redis_server: RedisServer) -> RedisStore:
    return use(settings, redis_server.url)


def within(seconds: float, work: Callable[[], Any]) -> StoreUnavailable:
    """Return the error with which ``work`` fails, in time."""
    started = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        work()
    assert time.monotonic() - started < seconds
    assert caught.value.__cause__ is not None
    return caught.value


def after_pause(store: RedisStore) -> None:
    """Wait for the breaker's next probe."""
    while not store.breaker.retry_at <= time.monotonic():
        time.sleep(0.01)


def test_a_read_is_one_command(store: RedisStore, client: redis.Redis) -> None:
    handle = store.prepare(["a", "b", "c"])
    store.read(handle)
    client.config_resetstat()
    store.read(handle)
    stats: Any = client.info("commandstats")
    assert stats["cmdstat_mget"]["calls"] == 1
    assert set(stats) <= {"cmdstat_mget", "cmdstat_info", "cmdstat_config|resetstat"}


def test_every_key_has_a_timeout(store: RedisStore, client: redis.Redis) -> None:
    cap: dict[str, Any] = {"members": "ac:members", "member": "k", "max_members": 5}
    store.put([("ac:put", b"", 60)])
    win(store, b"q", Phase.QUEUED, key="queued")
    claimed = win(store, b"a", **cap)
    store.renew([("ac:k:l", b"a", 60)])
    store.commit([entry(b"a", expect=((HARD, claimed.stamps[0]),), **cap)])
    keys: Any = client.keys("*")
    assert len(keys) >= 5
    assert [key for key in keys if client.ttl(key) == -1] == []


def test_a_stamp_s_life_is_extended_and_never_shortened(
    store: RedisStore, client: redis.Redis
) -> None:
    store.put([(HARD, b"h" * 12, 100), (SOFT, b"s" * 12, 5_000)])
    win(store, b"a")
    store.commit([entry(b"a", extend=((HARD, 1_000.0), (SOFT, 1_000.0)))])
    make = caches["default"].make_key
    assert 900 < client.ttl(str(make(HARD))) <= 1_000
    assert 4_900 < client.ttl(str(make(SOFT))) <= 5_000


def test_a_forgotten_script_is_taught_again(store: RedisStore, client: redis.Redis) -> None:
    win(store, b"a")
    client.script_flush()
    claims = store.claim([ask(b"b%d" % i, key=f"k{i}") for i in range(5)])
    assert [claim.won for claim in claims] == [True] * 5
    client.script_flush()
    assert store.commit([entry(b"a")]) == [Outcome.COMMITTED]


def test_a_commit_whose_reply_was_lost_may_be_sent_again(store: RedisStore) -> None:
    win(store, b"a")
    assert store.commit([entry(b"a", b"mine")]) == [Outcome.COMMITTED]
    assert store.commit([entry(b"a", b"mine")]) == [Outcome.COMMITTED]
    assert store.commit([entry(b"a", b"other")]) == [Outcome.LOST]


def test_large_batches_go_in_turns(store: RedisStore) -> None:
    claims = store.claim([ask(b"t", key=f"k{i}") for i in range(450)])
    assert all(claim.won for claim in claims)
    store.put([(f"ac:k{i}", b"%d" % i, 60) for i in range(450)])
    found = store.read_many([store.prepare([f"ac:k{i}"]) for i in range(450)])
    assert found == [[b"%d" % i] for i in range(450)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_keys_are_the_alias_s_own(settings: Any, redis_url: str, backend: str) -> None:
    store = use(settings, redis_url, backend, KEY_PREFIX="p:q", VERSION=7)
    store.put([("ac:ä", b"1", 60)])
    with redis.Redis.from_url(redis_url) as client:
        assert client.get("p:q:7:ac:ä") == b"1"


def custom_key(key: str, prefix: str, version: int) -> str:
    return f"{key[::-1]}|{prefix}|{version}"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_key_function_is_heeded(settings: Any, redis_url: str, backend: str) -> None:
    store = use(settings, redis_url, backend, KEY_FUNCTION=f"{__name__}.custom_key")
    store.put([("abc", b"1", 60)])
    with redis.Redis.from_url(redis_url) as client:
        assert client.get("cba||1") == b"1"
    assert key_maker(caches["default"])("abc") == "cba||1"


def test_a_server_that_is_gone_is_told_at_once_and_left_alone(
    own: RedisStore, redis_server: RedisServer
) -> None:
    own.put([("a", b"1", 60)])
    handle = own.prepare(["a"])
    redis_server.stop()
    within(PATIENCE["IO_TIMEOUT"] / 2, lambda: own.read(handle))
    error = None
    started = time.monotonic()
    for _ in range(100):
        with pytest.raises(StoreUnavailable) as caught:
            own.read(handle)
        error = caught.value
    assert time.monotonic() - started < PATIENCE["IO_TIMEOUT"] / 2
    assert "a moment ago" in str(error)
    redis_server.start()
    after_pause(own)
    assert own.read(handle) == [None]
    assert own.read(handle) == [None]


@pytest.mark.parametrize("connected", [True, False])
def test_a_silent_server_costs_one_timeout(
    settings: Any, redis_server: RedisServer, connected: bool
) -> None:
    settings.ASYNC_CACHE = {"IO_TIMEOUT": 1}
    own = use(settings, redis_server.url)
    handle = own.prepare(["a"])
    if connected:
        own.read(handle)
    redis_server.pause()
    try:
        error = within(1.9, lambda: own.read(handle))
        assert "in time" in str(error) or "Timeout" in str(error)
        within_pause = time.monotonic()
        with pytest.raises(StoreUnavailable):
            own.claim([ask(b"a")])
        assert time.monotonic() - within_pause < 0.9
    finally:
        redis_server.resume()
    after_pause(own)
    assert own.read(handle) == [None]


def test_a_restarted_server_is_not_noticed(own: RedisStore, redis_server: RedisServer) -> None:
    handle = own.prepare(["a"])
    own.read(handle)
    redis_server.stop()
    redis_server.start()
    assert own.read(handle) == [None]
    redis_server.stop()
    redis_server.start()
    win(own, b"a")


def test_reads_work_from_many_threads_on_few_connections(store: RedisStore) -> None:
    names = [f"n{i}" for i in range(8)]
    store.put([(name, name.encode() * 50, 60) for name in names])
    wrong: list[object] = []

    def work(name: str) -> None:
        handle = store.prepare([name, "none"])
        for _ in range(200):
            found = store.read(handle)
            if found != [name.encode() * 50, None]:
                wrong.append(found)

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(store._pool.idle) <= len(names) + 1


def test_idle_connections_are_few(store: RedisStore) -> None:
    deadline = time.monotonic() + 30
    links = [store._pool.connect(deadline) for _ in range(MAX_IDLE + 3)]
    for link in links:
        store._pool.give_back(link)
    assert len(store._pool.idle) == MAX_IDLE


def test_a_forked_child_has_connections_of_its_own(store: RedisStore) -> None:
    store.put([("parent", b"P" * 100, 60), ("child", b"C" * 100, 60)])
    parent, child = store.prepare(["parent"]), store.prepare(["child"])
    store.read(parent)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        good = all(store.read(child) == [b"C" * 100] for _ in range(300))
        os.write(writer, b"1" if good else b"0")
        os._exit(0)
    good = all(store.read(parent) == [b"P" * 100] for _ in range(300))
    os.close(writer)
    assert os.read(reader, 1) == b"1"
    assert good
    os.waitpid(pid, 0)
    os.close(reader)


class Dripping(socketserver.ThreadingTCPServer):
    """Answers each command with one byte each 0.4 s, for ever."""

    allow_reuse_address = True
    daemon_threads = True


class Drip(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(65_536):
            if b"MGET" not in data:
                self.request.sendall(b"+OK\r\n" * data.count(b"*"))
                continue
            with contextlib.suppress(OSError):
                self.request.sendall(b"*1\r\n$1000\r\n")
                while True:
                    self.request.sendall(b"x")
                    time.sleep(0.4)


def test_dripping_bytes_do_not_stretch_a_wait(settings: Any) -> None:
    with Dripping(("127.0.0.1", 0), Drip) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            settings.ASYNC_CACHE = {"IO_TIMEOUT": 0.5}
            store = use(settings, f"redis://127.0.0.1:{server.server_address[1]}")
            within(5, lambda: store.read(store.prepare(["a"])))
            after_pause(store)
            # Once more on a connection that was idle.
            link = store._pool.connect(time.monotonic() + 1)
            store._pool.give_back(link)
            store.breaker.succeeded()
            within(5, lambda: store.read(store.prepare(["a"])))
        finally:
            server.shutdown()
            thread.join()


def test_left_over_bytes_end_a_connection(store: RedisStore) -> None:
    store.put([("a", b"A", 60), ("b", b"B", 60)])
    [link] = store._pool.idle
    link.send(store.prepare(["a"]))
    deadline = time.monotonic() + 5
    while len(link.sock.recv(100, socket.MSG_PEEK)) < 10:
        assert time.monotonic() < deadline
    # The stray reply answers the first read; the connection must not serve another.
    store.read(store.prepare(["b"]))
    assert store.read(store.prepare(["b"])) == [b"B"]


def test_a_class_we_know_nothing_of_is_driven_through_its_methods(redis_url: str) -> None:
    class Veiled(redis.Connection):
        """Hides its socket."""

        def __getattribute__(self, name: str) -> Any:
            if name == "_sock" and not _inside_redis():
                return None
            return super().__getattribute__(name)

    def _inside_redis() -> bool:
        import sys

        return "redis" in sys._getframe(2).f_globals["__name__"].split(".")[:1]

    like = redis.ConnectionPool.from_url(redis_url, connection_class=Veiled)
    link = Pool(like, 0.25).connect(time.monotonic() + 1)
    assert isinstance(link, PublicLink)
    link.close()
    store = RedisStore("default", like, lambda name: name, 0.25)
    store.put([("a", b"1", 60)])
    assert store.read(store.prepare(["a", "b"])) == [b"1", None]
    win(store, b"a")
    assert store.commit([entry(b"a")]) == [Outcome.COMMITTED]


def test_unix_sockets(settings: Any, tmp_path: Any) -> None:
    path = f"/tmp/ac-{os.getpid()}.sock"
    server = RedisServer("--unixsocket", path)
    with server:
        store = use(settings, f"unix://{path}?db=2")
        assert store.like.connection_class is UnixDomainSocketConnection
        win(store, b"a")
        assert isinstance(get_async_store("default"), AsyncRedisStore)


def test_passwords_and_databases(settings: Any) -> None:
    with RedisServer() as server, redis.Redis.from_url(server.url) as admin:
        admin.config_set("requirepass", "geheim")
        store = use(settings, f"redis://:geheim@127.0.0.1:{server.port}/3")
        store.put([("a", b"1", 60)])
        assert store.read(store.prepare(["a"])) == [b"1"]
        with redis.Redis(port=server.port, db=3, password="geheim") as client:
            assert client.dbsize() == 1
        wrong = use(settings, f"redis://:falsch@127.0.0.1:{server.port}/3")
        error = within(5, lambda: wrong.read(wrong.prepare(["a"])))
        assert "falsch" not in str(error)


def test_a_refusal_is_no_outage(own: RedisStore, redis_server: RedisServer) -> None:
    own.put([("a", b"1", 60)])
    with redis.Redis.from_url(redis_server.url) as admin:
        admin.config_set("maxmemory", 1)
        error = within(5, lambda: own.put([("b", b"1" * 1000, 60)]))
        assert "OOM" in str(error)
    assert own.read(own.prepare(["a"])) == [b"1"]


def test_a_demoted_primary_is_asked_again_on_a_new_connection(
    own: RedisStore, redis_server: RedisServer
) -> None:
    own.put([("a", b"1", 60)])
    [link] = own._pool.idle
    with redis.Redis.from_url(redis_server.url) as admin:
        admin.slaveof("127.0.0.1", 1)
        error = within(5, lambda: own.put([("a", b"2", 60)]))
        assert "READONLY" in str(error)
        assert link not in own._pool.idle
        admin.slaveof()
    own.put([("a", b"2", 60)])


# Coroutines.


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def test_coroutines_share_connections_across_loops(store: RedisStore) -> None:
    store.put([("a", b"A", 60)])
    twin = get_async_store("default")
    assert isinstance(twin, AsyncRedisStore)
    handle = twin.prepare(["a"])

    async def read() -> list[list[bytes | None]]:
        return [*await asyncio.gather(*(twin.read(handle) for _ in range(10)))]

    assert asyncio.run(read()) == [[b"A"]] * 10
    links = set(twin._pool.idle)
    assert asyncio.run(read()) == [[b"A"]] * 10
    assert set(twin._pool.idle) == links


def test_of_many_coroutines_one_wins(store: RedisStore, runner: asyncio.Runner) -> None:
    twin = get_async_store("default")

    async def race(turn: int) -> int:
        claims = await asyncio.gather(
            *(twin.claim([ask(b"r%d" % i, key=f"k{turn}")]) for i in range(16))
        )
        return sum(claim.won for [claim] in claims)

    assert [runner.run(race(turn)) for turn in range(20)] == [1] * 20


def test_a_cancelled_coroutine_leaves_nobody_its_reply(
    own: RedisStore, redis_server: RedisServer, runner: asyncio.Runner
) -> None:
    own.put([("a", b"A", 60), ("b", b"B", 60)])
    twin = get_async_store("default")
    assert isinstance(twin, AsyncRedisStore)
    a, b = twin.prepare(["a"]), twin.prepare(["b"])
    runner.run(twin.read(a))

    async def cancelled() -> None:
        redis_server.pause()
        reading = asyncio.ensure_future(twin.read(a))
        await asyncio.sleep(0.02)
        assert not reading.done()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        redis_server.resume()
        assert await twin.read(b) == [b"B"]

    runner.run(cancelled())
    assert not own.breaker.retry_at


def test_a_silent_server_costs_a_coroutine_one_timeout(
    settings: Any, redis_server: RedisServer, runner: asyncio.Runner
) -> None:
    settings.ASYNC_CACHE = {"IO_TIMEOUT": 1}
    own = use(settings, redis_server.url)
    twin = get_async_store("default")
    handle = twin.prepare(["a"])
    runner.run(twin.read(handle))
    redis_server.pause()
    try:
        within(1.9, lambda: runner.run(twin.read(handle)))
    finally:
        redis_server.resume()
    after_pause(own)
    redis_server.stop()
    redis_server.start()
    assert runner.run(twin.read(handle)) == [None]


def test_other_backends_are_reached_through_a_thread(settings: Any) -> None:
    assert isinstance(get_async_store("default"), ThreadedStore)


def test_a_new_setting_makes_new_stores(settings: Any, redis_url: str) -> None:
    before = get_store("default")
    store = use(settings, redis_url)
    assert store is not before
    store.put([("a", b"1", 60)])
    [link] = store._pool.idle
    settings.ASYNC_CACHE = {"IO_TIMEOUT": 1}
    after = get_store("default")
    assert isinstance(after, RedisStore)
    assert after.timeout == 1
    assert not store._pool.idle
    assert isinstance(link, Link)
    assert link.sock.fileno() == -1
