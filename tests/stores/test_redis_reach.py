"""Ways to reach a Redis server: Sentinel with a fail-over, TLS."""

from __future__ import annotations

import asyncio
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from async_cache.exceptions import StoreUnavailable
from async_cache.stores.aredis import AsyncRedisStore
from async_cache.stores.base import Outcome
from async_cache.stores.redis import RedisStore
from async_cache.stores.registry import get_async_store, get_store
from async_cache.stores.threaded import ThreadedStore
from tests.lateness import Lateness
from tests.servers import RedisServer, ServerUnavailable
from tests.stores.test_contract import entry, win


class SentinelServer(RedisServer):
    """A Sentinel that watches one primary."""

    def __init__(self, primary: int) -> None:
        super().__init__()
        self.primary = primary

    def command(self, directory: Path) -> list[str]:
        program = self.find()
        if program is None:
            raise ServerUnavailable("no redis-server or valkey-server; run `make servers`")
        config = directory / "sentinel.conf"
        config.write_text(
            f"port {self.port}\n"
            "bind 127.0.0.1\n"
            f"dir {directory}\n"
            f"sentinel monitor main 127.0.0.1 {self.primary} 1\n"
            "sentinel down-after-milliseconds main 300\n"
            "sentinel failover-timeout main 2000\n"
        )
        return [program, str(config), "--sentinel"]


def wait_for(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def works(store: RedisStore) -> bool:
    try:
        store.put([("probe", b"1", 60)])
    except StoreUnavailable:
        return False
    return True


@pytest.mark.slow
def test_sentinel_names_the_new_primary(settings: Any, redis_server: RedisServer) -> None:
    with (
        RedisServer() as replica,
        SentinelServer(redis_server.port) as sentinel,
        socket.create_server(("127.0.0.1", 0)) as silent,
    ):
        with redis.Redis.from_url(replica.url) as client:
            client.slaveof("127.0.0.1", redis_server.port)
        with redis.Redis.from_url(sentinel.url) as watcher:
            wait_for(lambda: watcher.sentinel_master("main")["num-slaves"] == 1)  # type: ignore[index, unused-ignore]
        settings.DJANGO_REDIS_CONNECTION_FACTORY = "django_redis.pool.SentinelConnectionFactory"
        settings.CACHES = {
            **settings.CACHES,
            "default": {
                "BACKEND": "django_redis.cache.RedisCache",
                "LOCATION": "redis://main/0",
                "OPTIONS": {
                    "CLIENT_CLASS": "django_redis.client.SentinelClient",
                    "SENTINELS": [silent.getsockname(), ("127.0.0.1", sentinel.port)],
                },
            },
        }
        settings.ASYNC_CACHE = {"IO_TIMEOUT": 1}
        store = get_store("default")
        assert isinstance(store, RedisStore)
        # A Sentinel that answers nothing costs a bounded wait, once.
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            store.put([("a", b"1", 60)])
        assert time.monotonic() - started < 5
        wait_for(lambda: works(store))
        win(store, b"a")
        assert isinstance(get_async_store("default"), AsyncRedisStore)
        redis_server.kill()
        wait_for(lambda: works(store))
        win(store, b"b", key="other")
        with redis.Redis.from_url(replica.url) as client:
            assert client.info("replication")["role"] == "master"
            assert client.dbsize() > 0


class Proxy(socketserver.ThreadingTCPServer):
    """Takes TLS off and passes the bytes on to a server."""

    allow_reuse_address = True
    daemon_threads = True
    target: tuple[str, int]
    context: ssl.SSLContext

    def get_request(self) -> tuple[Any, Any]:
        sock, address = super().get_request()
        return self.context.wrap_socket(sock, server_side=True), address


class Passing(socketserver.BaseRequestHandler):
    server: Proxy

    def handle(self) -> None:
        with socket.create_connection(self.server.target) as upstream:
            back = threading.Thread(target=copy, args=(upstream, self.request), daemon=True)
            back.start()
            copy(self.request, upstream)
            upstream.shutdown(socket.SHUT_RDWR)
            back.join()


def copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65_536):
            target.sendall(data)
    except OSError:
        return


@pytest.fixture
def tls_port(tmp_path: Path, redis_server: RedisServer) -> Iterator[int]:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    pem = tmp_path / "server.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "1", "-subj", "/CN=localhost", "-keyout", pem, "-out", tmp_path / "c"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "c", pem)
    with Proxy(("127.0.0.1", 0), Passing) as server:
        server.target, server.context = ("127.0.0.1", redis_server.port), context
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_tls(settings: Any, tls_port: int, redis_server: RedisServer) -> None:
    settings.CACHES = {
        **settings.CACHES,
        "default": {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": f"rediss://127.0.0.1:{tls_port}/0?ssl_cert_reqs=none",
        },
    }
    store = get_store("default")
    assert isinstance(store, RedisStore)
    win(store, b"a")
    big = b"x" * 300_000
    assert store.commit([entry(b"a", big)]) == [Outcome.COMMITTED]
    handle = store.prepare(["ac:k", "none"])
    assert store.read(handle) == [big, None]
    twin = get_async_store("default")
    assert isinstance(twin, ThreadedStore)
    assert asyncio.run(twin.read(handle)) == [big, None]
    settings.ASYNC_CACHE = {"IO_TIMEOUT": 1}
    store = get_store("default")
    handle = store.prepare(["ac:k", "none"])
    redis_server.pause()
    started = time.monotonic()
    with Lateness() as late, pytest.raises(StoreUnavailable, match=r"in time|Timeout"):
        store.read(handle)
    assert time.monotonic() - started < 5 + late.seconds
    redis_server.resume()
