"""Fixtures of the fault suite, and which of its tests run.

- ``rabbitmq_url``: a broker shared by the session, as ``redis_url`` is.
- ``rabbitmq_server``: one of the test's own, to kill, halt and start.
- ``broker``: a `FaultyBroker`, once on Redis and once on RabbitMQ; the Celery app of this process
  publishes through its proxy.
- ``cache_proxy``: a function from an alias of ``CACHES`` to a proxy that now stands before it.

Tests marked ``faults`` run with ``FAULTS=full`` only, those marked ``soak`` with ``FAULTS=soak``;
else they are deselected. Where RabbitMQ cannot be had a test is skipped, or fails with
``REQUIRE_SERVERS``, as with the other servers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from django.core.cache import caches

from async_cache import guards, invalidation, publisher
from async_cache.dispatchers import get_dispatcher
from async_cache.stores.registry import reset_stores
from tests.conftest import Servers, unavailable
from tests.faults import jobs, scale
from tests.faults.brokers import FaultyBroker, empty_rabbitmq, faulty
from tests.faults.proxy import Proxy, address_of, through
from tests.servers import RabbitMQServer, RedisServer, ServerUnavailable


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what this run does not ask for."""
    runs = {"faults": scale.WHOLE, "soak": scale.SOAK}
    left_out = {
        item
        for item in items
        for name, wanted in runs.items()
        if item.get_closest_marker(name) and not wanted
    }
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=list(left_out))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the figures that the whole suite has reached."""
    if scale.reached and scale.WHOLE:
        terminalreporter.section("figures of the fault suite")
        for one in scale.reached:
            terminalreporter.write_line(
                f"{one.check:42} {one.name:38} {one.value:10.3f}  of {one.bound:g}"
            )


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """Begin and end without anything that the process remembers of earlier reads."""
    guards.forget()
    jobs.fetched.clear()
    yield
    publisher.drain(1.0)
    publisher._reset()
    get_dispatcher("celery").close()
    guards.forget()
    invalidation.unconfirmed.clear()


@pytest.fixture(scope="session")
def rabbitmq_url(servers: Servers) -> str:
    """Return the URL of a real RabbitMQ broker."""
    return os.environ.get("TEST_RABBITMQ_URL") or servers.get(RabbitMQServer).url


@pytest.fixture(scope="session")
def _rabbitmq_of_its_own() -> Iterator[RabbitMQServer]:
    server = RabbitMQServer()
    yield server
    server.stop()


@pytest.fixture
def rabbitmq_server(_rabbitmq_of_its_own: RabbitMQServer) -> RabbitMQServer:
    """Return a running RabbitMQ broker, empty, that this test may kill, halt and start."""
    server = _rabbitmq_of_its_own
    try:
        if not server.running:
            server.start()
    except ServerUnavailable as error:
        unavailable(RabbitMQServer, str(error))
        raise
    empty_rabbitmq(server.url)
    return server


@pytest.fixture(scope="session")
def redis_broker_url() -> Iterator[str]:
    """Return the URL of a Redis server that is a broker only: what ails it spares the caches."""
    try:
        server = RedisServer().start()
    except ServerUnavailable as error:
        unavailable(RedisServer, str(error))
        raise
    yield server.url
    server.stop()


@pytest.fixture(params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest, servers: Servers) -> Iterator[FaultyBroker]:
    """Publish through a proxy to a broker of each kind."""
    server = None
    if request.param == "redis":
        url = request.getfixturevalue("redis_broker_url")
    else:
        url = request.getfixturevalue("rabbitmq_url")
        if "TEST_RABBITMQ_URL" not in os.environ:
            server = servers.get(RabbitMQServer)
    with faulty(request.param, url, server) as made:
        yield made


@pytest.fixture
def cache_proxy(settings: Any) -> Iterator[Callable[[str], Proxy]]:
    """Return a function that puts a proxy before the server of a cache alias."""
    with ExitStack() as stack:

        def place(alias: str) -> Proxy:
            entry = settings.CACHES[alias]
            proxy = stack.enter_context(Proxy(address_of(entry["LOCATION"])))
            stack.callback(reset_stores)
            entry = {**entry, "LOCATION": through(entry["LOCATION"], proxy)}
            settings.CACHES = {**settings.CACHES, alias: entry}
            stack.callback(caches.close_all)
            return proxy

        yield place
