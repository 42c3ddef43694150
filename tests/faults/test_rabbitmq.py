"""RabbitMQ from end to end: a real worker, a broker that is killed, messages that survive."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import kombu
import pytest

from async_cache import guards, signals
from tests.celery_app import app
from tests.dispatchers.support import eventually, heard
from tests.faults.breaks import Break, caught
from tests.faults.brokers import faulty
from tests.faults.jobs import AlwaysStale
from tests.faults.scale import count, judge
from tests.servers import RabbitMQServer
from tests.workers import Broker, WorkerProcess, connected

pytestmark = [pytest.mark.integration, pytest.mark.django_db(transaction=True)]

PATIENCE = 30.0


@pytest.fixture(autouse=True)
def _cache(settings: Any, redis_caches: str) -> None:
    settings.ASYNC_CACHE = {"CACHE": "redis", "DISPATCHER": "celery"}


@contextmanager
def working(url: str) -> Iterator[WorkerProcess]:
    """Run a worker on a broker."""
    worker = WorkerProcess(Broker(url))
    try:
        yield worker
    finally:
        worker.stop()


def stored(keys: list[str]) -> None:
    for key in keys:
        AlwaysStale().set(f"old {key}", key)


def refreshed(keys: list[str]) -> bool:
    """Tell whether another process has fetched every key."""
    here = f" {os.getpid()}"
    values = [(key, str(AlwaysStale().peek(key))) for key in keys]
    return all(value.startswith(key) and not value.endswith(here) for key, value in values)


def read(keys: list[str]) -> None:
    for key in keys:
        value = AlwaysStale().get(key)
        assert value in (f"old {key}", AlwaysStale().peek(key)) or value.startswith(key)


def test_a_worker_on_rabbitmq_refreshes_a_stale_key(rabbitmq_url: str) -> None:
    with faulty("rabbitmq", rabbitmq_url) as broker, working(broker.url):
        stored(["key"])
        begun = time.monotonic()
        assert AlwaysStale().get("key") == "old key"
        eventually(lambda: refreshed(["key"]), PATIENCE)
        judge("rabbitmq/well", "refreshed, s", time.monotonic() - begun, 1, generous=20)


def check_restart(server: RabbitMQServer, end: Callable[[RabbitMQServer], None]) -> None:
    """Publish, end the broker, start it: what it had confirmed is still there, and is done."""
    keys = [f"key{number}" for number in range(count(5, 100))]
    later = [f"later{number}" for number in range(count(5, 100))]
    stored(keys + later)
    with ExitStack() as stack:
        stack.enter_context(connected(Broker(server.url)))
        with heard(signals.refresh_dispatched) as sent:
            read(keys)
            eventually(lambda: len(sent) == len(keys), PATIENCE)
        end(server)
        with heard(signals.dispatch_failed) as failures:
            read(later)
            eventually(lambda: failures, PATIENCE)
        with heard(signals.dispatch_recovered) as back:
            server.start()
            begun = time.monotonic()
            eventually(lambda: back, PATIENCE)
            seconds = time.monotonic() - begun
            judge("rabbitmq/restarted", "publishing resumed, s", seconds, 2, generous=10)
        stack.enter_context(working(server.url))
        # Nobody reads meanwhile: it is the messages that bring the refreshes.
        eventually(lambda: refreshed(keys), count(10, 30))
        eventually(lambda: refreshed(later), count(10, 30))


@pytest.mark.faults
@pytest.mark.parametrize("end", [RabbitMQServer.kill, RabbitMQServer.halt], ids=["killed", "ended"])
def test_messages_survive_the_broker(
    rabbitmq_server: RabbitMQServer, end: Callable[[RabbitMQServer], None]
) -> None:
    check_restart(rabbitmq_server, end)


@pytest.mark.faults
def test_what_is_not_to_be_kept_is_asked_for_again(rabbitmq_server: RabbitMQServer) -> None:
    """A project may choose messages that do not survive: then the lease ends, a read asks again."""
    before = app.conf.task_default_delivery_mode
    app.conf.task_default_delivery_mode = "transient"
    try:
        stored(["key"])
        with connected(Broker(rabbitmq_server.url)):
            with heard(signals.refresh_dispatched) as sent:
                read(["key"])
                eventually(lambda: sent, PATIENCE)
            rabbitmq_server.kill()
            rabbitmq_server.start()
            with working(rabbitmq_server.url):
                begun = time.monotonic()

                def read_again() -> bool:
                    guards.forget()  # as another process reads
                    read(["key"])
                    return refreshed(["key"])

                eventually(read_again, PATIENCE)
        grace = AlwaysStale()._runtime.queued_grace
        judge("rabbitmq/lost", "asked again, s", time.monotonic() - begun, grace + 2, generous=25)
    finally:
        app.conf.task_default_delivery_mode = before


@pytest.mark.faults
def test_a_worker_finds_its_broker_again(rabbitmq_server: RabbitMQServer) -> None:
    """The worker is Celery's own: it reconnects by itself, and takes what waits."""
    with working(rabbitmq_server.url) as worker, connected(Broker(rabbitmq_server.url)):
        stored(["first", "second"])
        read(["first"])
        eventually(lambda: refreshed(["first"]), PATIENCE)
        rabbitmq_server.kill()
        read(["second"])
        rabbitmq_server.start()
        eventually(lambda: refreshed(["second"]), PATIENCE)
        assert worker.running


@pytest.mark.faults
def test_the_check_notices_messages_that_do_not_survive(rabbitmq_server: RabbitMQServer) -> None:
    broken = Break(
        "messages are not kept",
        "kombu.Producer.publish",
        _transient(kombu.Producer.publish),
    )
    caught(broken, lambda: check_restart(rabbitmq_server, RabbitMQServer.kill))


def _transient(publish: Any) -> Any:
    def instead(self: Any, *args: Any, **options: Any) -> Any:
        return publish(self, *args, **{**options, "delivery_mode": 1})

    return instead
