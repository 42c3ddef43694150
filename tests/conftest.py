"""Fixtures for all tests: real servers, caches on them, real Celery workers.

Servers start when the first test asks for one, once for each pytest process (so that the workers
of pytest-xdist do not meet), and end with it.

- ``redis_url``, ``memcached_location``, ``postgres_url``: a server shared by the session. What a
  test left in Redis or Memcached is gone before the next test that uses it.
- ``redis_server``: a server of the test's own, to stop, start, pause and resume.
- ``redis_caches``, ``memcached_cache``, ``database_cache``, ``file_cache``: aliases in ``CACHES``.
- ``@pytest.mark.django_db(databases=["default", "postgres"], transaction=True)``: PostgreSQL under
  the alias ``postgres``, tables included. The mark alone starts the server. So with ``mariadb``,
  which has to be asked for: ``REQUIRE_SERVERS=mariadb`` or ``TEST_MARIADB_URL``.
- ``celery_worker_process``: start a real worker over Redis or over the file system.

The suite must hold on a machine that is busy with other things. So whoever sets neither
``IO_TIMEOUT`` nor ``PUBLISH_TIMEOUT`` waits 10 s: a test of elections must not fail because the
machine answered late. ``@pytest.mark.shipped_timeouts`` gives a test the defaults as shipped.

Where a server cannot be had the test is skipped. ``REQUIRE_SERVERS=1`` makes it fail instead, for
all kinds of servers but MariaDB; ``REQUIRE_SERVERS=redis,postgres`` for these.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
import redis
from django.conf import settings as django_settings
from django.core.cache import BaseCache, caches
from django.db import connections

from async_cache import conf, rota, tallies
from async_cache.stores.registry import reset_stores
from tests.mariadb import MariadbServer
from tests.servers import (
    MemcachedServer,
    PostgresServer,
    RedisServer,
    Server,
    ServerUnavailable,
    database_from_url,
    exchange,
)
from tests.workers import (
    PATIENCE,
    Broker,
    WorkerProcess,
    connected,
    filesystem_broker,
    redis_broker,
)

POSTGRES, MARIADB = "postgres", "mariadb"
FAULTS = Path(__file__).with_name("faults")
"""Its tests are about timeouts: all are marked."""
Shipped = conf.Settings
PATIENT: dict[str, Any] = {name.lower(): seconds for name, seconds in PATIENCE.items()}
Patient = partial(Shipped, **PATIENT)
S = TypeVar("S", bound=Server)


class Servers:
    """The servers of this pytest process, each started once and only when asked for."""

    def __init__(self, worker: str) -> None:
        number = worker.removeprefix("gw")
        self.number = int(number) if number.isdigit() else 0
        self._running: dict[type[Server], Server] = {}
        self._missing: dict[type[Server], str] = {}

    def get(self, kind: type[S]) -> S:
        """Return the running server of a kind; skip or fail the test when there is none."""
        if kind not in self._running and kind not in self._missing:
            try:
                self._running[kind] = kind().start()
            except ServerUnavailable as error:
                self._missing[kind] = str(error)
        if kind in self._missing:
            unavailable(kind, self._missing[kind])
        server = self._running[kind]
        assert isinstance(server, kind)
        return server

    def redis_url(self) -> str:
        """Return the URL of a database that this pytest process has for itself."""
        url = os.environ.get("TEST_REDIS_URL")
        return next_database(url, 2 * self.number) if url else self.get(RedisServer).url

    def postgres_url(self) -> str:
        """Return the URL of a PostgreSQL server on which databases may be created."""
        return os.environ.get("TEST_DATABASE_URL") or self.get(PostgresServer).url

    def mariadb_url(self) -> str:
        """Return the URL of a MariaDB server on which databases may be created."""
        if not mariadb_wanted():
            pytest.skip("MariaDB belongs to `make test-all`; REQUIRE_SERVERS=mariadb asks for it")
        if importlib.util.find_spec("MySQLdb") is None:
            unavailable(MariadbServer, "no driver: `python scripts/servers.py install mariadb`")
        return os.environ.get("TEST_MARIADB_URL") or self.get(MariadbServer).url

    def memcached_location(self) -> str:
        """Return the ``LOCATION`` of a Memcached server."""
        return os.environ.get("TEST_MEMCACHED_URL") or self.get(MemcachedServer).url

    def stop(self) -> None:
        """End all servers."""
        for server in self._running.values():
            server.stop()
        self._running.clear()


def next_database(url: str, step: int = 1) -> str:
    """Return the URL of a later database of the same Redis server."""
    base, _, database = url.rpartition("/")
    return f"{base}/{(int(database) + step) % 16}" if database.isdigit() else url


def flush(url: str) -> None:
    """Empty the Redis database that a URL names."""
    with redis.Redis.from_url(url) as client:
        client.flushdb()


servers_key = pytest.StashKey[Servers]()


def unavailable(kind: type[Server], reason: str) -> None:
    """Skip the running test, or fail it where the server is required."""
    if required(kind):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def required(kind: type[Server]) -> bool:
    """Whether a kind of server must be there."""
    named = os.environ.get("REQUIRE_SERVERS", "").split(",")
    return "1" in named or kind.name in named


def mariadb_wanted() -> bool:
    """Whether tests run on MariaDB too: ``REQUIRE_SERVERS=1`` is not enough."""
    named = os.environ.get("REQUIRE_SERVERS", "").split(",")
    return bool(os.environ.get("TEST_MARIADB_URL")) or MariadbServer.name in named


def pytest_configure(config: pytest.Config) -> None:
    """Prepare; start nothing yet."""
    config.stash[servers_key] = Servers(os.environ.get("PYTEST_XDIST_WORKER", ""))
    django_settings.DIRECTORY.mkdir(parents=True, exist_ok=True)
    config.addinivalue_line("markers", "shipped_timeouts: has the timeouts as shipped, not 10 s")
    conf.Settings = Patient  # type: ignore[assignment, misc]


def pytest_unconfigure(config: pytest.Config) -> None:
    """End what was started and remove what was written."""
    if servers_key in config.stash:
        config.stash[servers_key].stop()
        shutil.rmtree(django_settings.DIRECTORY, ignore_errors=True)


def wanted_servers(item: pytest.Item) -> set[str]:
    """Name the database aliases of servers that a test is marked for."""
    marker = item.get_closest_marker("django_db")
    names = marker.kwargs.get("databases", ()) if marker else ()
    return set() if names == "__all__" else {POSTGRES, MARIADB}.intersection(names)


def url_of(servers: Servers, alias: str) -> str:
    """Return the URL of the server behind a database alias."""
    return servers.postgres_url() if alias == POSTGRES else servers.mariadb_url()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test on a database server before its database is asked for."""
    for alias in wanted_servers(item):
        url_of(item.config.stash[servers_key], alias)


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    request: pytest.FixtureRequest,
    servers: Servers,
) -> None:
    """Add the aliases of database servers that tests of this session are marked for."""
    for alias in set().union(*(wanted_servers(item) for item in request.session.items)):
        try:
            url = url_of(servers, alias)
        except (pytest.skip.Exception, pytest.fail.Exception):
            pass  # told by the tests that want it; the others go on
        else:
            django_settings.DATABASES[alias] = database_from_url(url, "async_cache")
            connections.configure_settings(django_settings.DATABASES)
    request.getfixturevalue("django_db_modify_db_settings_parallel_suffix")


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> Servers:
    """Return the servers of this pytest process."""
    return request.config.stash[servers_key]


@pytest.fixture(scope="session")
def redis_url(servers: Servers) -> str:
    """Return the URL of a real Redis-protocol server, empty at the start of each test."""
    return servers.redis_url()


@pytest.fixture(scope="session")
def postgres_url(servers: Servers) -> str:
    """Return the URL of a real PostgreSQL server."""
    return servers.postgres_url()


@pytest.fixture(scope="session")
def memcached_location(servers: Servers) -> str:
    """Return the address of a real Memcached server, empty at the start of each test."""
    return servers.memcached_location()


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """Start a Redis-protocol server that this test may stop, start, pause and resume."""
    try:
        server = RedisServer().start()
    except ServerUnavailable as error:
        unavailable(RedisServer, str(error))
        raise
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session", autouse=True)
def _no_threads_of_apps() -> None:
    """Share no statistics and warm nothing behind the tests: those of these apps ask for it."""
    tallies.watch(None)
    rota.watch(None)


def use_settings_class(made: Any) -> None:
    """Let what is not set in ``ASYNC_CACHE`` have the defaults of ``made``."""
    conf.Settings = made  # type: ignore[misc]
    conf.reset()
    reset_stores()


@pytest.fixture(autouse=True)
def _shipped_timeouts(request: pytest.FixtureRequest) -> Iterator[None]:
    """Give a marked test the timeouts as shipped; all others wait for a busy machine."""
    marked = request.node.get_closest_marker("shipped_timeouts") is not None
    marked = marked or FAULTS in request.path.parents
    if marked:
        use_settings_class(Shipped)
    yield
    if marked:
        use_settings_class(Patient)


@pytest.fixture(autouse=True)
def _clean_caches(request: pytest.FixtureRequest) -> Iterator[None]:
    """Empty what the test is about to use, and close the caches that it made."""
    if "redis_url" in request.fixturenames:
        flush(request.getfixturevalue("redis_url"))
    if "memcached_location" in request.fixturenames:
        host, _, port = request.getfixturevalue("memcached_location").rpartition(":")
        exchange((host, int(port)), b"flush_all\r\n")
    caches["default"].clear()
    yield
    caches.close_all()


def redis_cache_settings(url: str) -> dict[str, dict[str, Any]]:
    """Describe the two Redis backends on one server, with short timeouts."""
    return {
        "redis": {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": url,
            "OPTIONS": {"SOCKET_CONNECT_TIMEOUT": 1, "SOCKET_TIMEOUT": 1},
        },
        "django_redis_builtin": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": url,
            "OPTIONS": {"socket_connect_timeout": 1, "socket_timeout": 1},
        },
    }


@pytest.fixture
def redis_caches(redis_url: str, settings: Any) -> str:
    """Add the cache aliases ``redis`` (django-redis) and ``django_redis_builtin``."""
    settings.CACHES = {**settings.CACHES, **redis_cache_settings(redis_url)}
    return redis_url


@pytest.fixture
def memcached_cache(memcached_location: str, settings: Any) -> BaseCache:
    """Add the cache alias ``memcached`` and return its cache."""
    entry = {
        "BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache",
        "LOCATION": memcached_location,
    }
    settings.CACHES = {**settings.CACHES, "memcached": entry}
    return caches["memcached"]


@pytest.fixture
def database_cache(transactional_db: None) -> BaseCache:
    """Return the cache ``database``, whose table is in the default database, empty."""
    caches["database"].clear()
    return caches["database"]


@pytest.fixture
def file_cache() -> Iterator[BaseCache]:
    """Return the cache ``file``, empty."""
    caches["file"].clear()
    yield caches["file"]
    caches["file"].clear()


@pytest.fixture
def broker_for(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Broker]:
    """Return a function from ``"redis"`` or ``"filesystem"`` to a broker of that kind."""

    def choose(kind: str) -> Broker:
        if kind == "redis":
            # Beside the caches: clearing a cache must not take the messages along.
            url = next_database(request.getfixturevalue("redis_url"))
            flush(url)
            return redis_broker(url)
        if kind == "filesystem":
            return filesystem_broker(tmp_path / "broker")
        return Broker(kind)

    return choose


@pytest.fixture
def celery_worker_process(
    request: pytest.FixtureRequest,
    broker_for: Callable[[str], Broker],
) -> Iterator[Callable[..., WorkerProcess]]:
    """Start real Celery workers; they end with the test.

    Call it with ``broker="redis"`` (default), ``"filesystem"`` or a URL, and with the options of
    `tests.workers.WorkerProcess`: ``concurrency``, ``pool``, ``queues``, ``overrides`` (settings).
    The worker takes ``CACHES``, ``DATABASES`` and ``ASYNC_CACHE`` as they are at the call, so ask
    for the cache fixtures first, and mark the test with ``django_db(transaction=True)``: a worker
    sees committed rows only. From the call on, the app of this process publishes to that broker.
    """
    with ExitStack() as stack:

        def start(broker: str = "redis", **options: Any) -> WorkerProcess:
            chosen = broker_for(broker)
            worker = WorkerProcess(chosen, **options)
            stack.callback(worker.discard)
            stack.enter_context(connected(chosen))
            return worker

        yield start
