"""The parts that the other tests stand on: servers, databases and workers are real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from django.core.cache import BaseCache, caches
from django.db import connections

from tests.app.models import Author
from tests.celery_app import app
from tests.servers import RedisServer
from tests.workers import ROOT, WorkerProcess


def ping(url: str, timeout: float = 5) -> bool:
    """Ask a Redis server for a sign of life."""
    with redis.Redis.from_url(url, socket_timeout=timeout) as client:
        return bool(client.ping())


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def test_redis_is_empty_in_each_test(redis_caches: str) -> None:
    """Both Redis backends reach the server, and no key is left from another test."""
    assert redis.Redis.from_url(redis_caches).dbsize() == 0
    for alias in ("redis", "django_redis_builtin"):
        caches[alias].set("name", (1, "two"))
        assert caches[alias].get("name") == (1, "two")


def test_redis_is_empty_in_each_test_again(redis_caches: str) -> None:
    """The keys of the test above are gone."""
    assert redis.Redis.from_url(redis_caches).dbsize() == 0


def test_redis_server_stops_and_starts(redis_server: RedisServer) -> None:
    """A server of one's own keeps its address through faults."""
    url = redis_server.url
    redis_server.pause()
    with pytest.raises(redis.TimeoutError):
        ping(url, timeout=0.2)
    redis_server.resume()
    assert ping(url)
    redis_server.kill()
    with pytest.raises(redis.ConnectionError):
        ping(url)
    redis_server.start()
    assert redis_server.url == url
    assert ping(url)


def test_memcached(memcached_cache: BaseCache) -> None:
    """The Memcached backend reaches a server."""
    memcached_cache.set("name", [1])
    assert memcached_cache.get("name") == [1]


def test_database_cache(database_cache: BaseCache) -> None:
    """The database cache has its table."""
    database_cache.set("name", [1])
    assert database_cache.get("name") == [1]


@pytest.mark.django_db(databases=["default", "other", "postgres"], transaction=True)
def test_postgres_has_the_tables() -> None:
    """The mark alone gives a PostgreSQL database with the tables of the test app."""
    Author.objects.using("postgres").create(name="Ada")
    assert connections["postgres"].vendor == "postgresql"
    assert Author.objects.using("postgres").count() == 1
    assert Author.objects.using("other").count() == 0


@app.task
def add_author(name: str) -> None:
    """Write a row from a worker."""
    Author.objects.create(name=name)
    print(f"wrote {name}", flush=True)


@pytest.mark.integration
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("broker", ["redis", "filesystem"])
def test_worker_shares_database_and_cache(
    broker: str,
    celery_worker_process: Callable[..., WorkerProcess],
) -> None:
    """A worker runs what this process publishes, on this test's database, and ends whole."""
    worker = celery_worker_process(broker, overrides={"CELERY_IMPORTS": [__name__]})
    add_author.delay("Grace")
    worker.wait_for("wrote Grace")
    assert Author.objects.filter(name="Grace").exists()
    worker.kill()
    assert gone(worker.pid)


def test_servers_die_with_their_process(tmp_path: Path) -> None:
    """A killed test run leaves no server behind."""
    code = """
        import sys, time
        from tests.servers import RedisServer
        server = RedisServer().start()
        print(server.process.pid, server.process._keeper.pid, flush=True)
        time.sleep(60)
    """
    if RedisServer.find() is None:
        pytest.skip("no server program")
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    ) as run:
        assert run.stdout is not None
        server, keeper = map(int, run.stdout.readline().split())
        assert not gone(server)
        run.kill()
    # The keeper is the server's parent; wait for it through a descriptor, not by polling.
    descriptor = os.pidfd_open(keeper) if not gone(keeper) else None
    if descriptor is not None:
        import select

        select.select([descriptor], [], [], 20)
        os.close(descriptor)
    assert gone(keeper)
    assert gone(server)


def test_server_dies_with_a_killed_keeper() -> None:
    """Even a keeper that gets SIGKILL takes the server with it (Linux)."""
    if RedisServer.find() is None or not sys.platform.startswith("linux"):
        pytest.skip("no server program, or not Linux")
    with RedisServer() as server:
        pid = server.process.pid
        descriptor = os.pidfd_open(pid)
        os.kill(server.process._keeper.pid, signal.SIGKILL)
        import select

        assert select.select([descriptor], [], [], 20)[0]
        os.close(descriptor)
        assert gone(pid)
