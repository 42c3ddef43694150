"""Brokers behind a proxy, what can go wrong with them, and what is to be seen of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import kombu
import redis
from amqp.exceptions import NotFound

from tests.celery_app import app
from tests.faults.proxy import Mode, Proxy, address_of, through
from tests.servers import RabbitMQServer
from tests.workers import Broker, connected

__all__ = ["FAULTS", "FaultyBroker", "empty_rabbitmq", "faulty"]

QUEUE = "celery"
TASK = b"async_cache.refresh"
ALWAYS = float("inf")


@dataclass
class FaultyBroker:
    """A broker that this process reaches through a proxy.

    Attributes:
        kind: ``redis`` or ``rabbitmq``.
        url: Where it really is: workers that are not part of the fault use this.
        proxy: What stands between it and this process.
        server: The broker's process, where it is ours and is RabbitMQ.
    """

    kind: str
    url: str
    proxy: Proxy
    server: RabbitMQServer | None = None
    _undo: ExitStack = field(default_factory=ExitStack)

    @property
    def broker(self) -> Broker:
        """The broker as this process sees it."""
        return Broker(through(self.url, self.proxy))

    def waiting(self) -> int:
        """Return how many messages wait for a worker, asked past the proxy."""
        if self.kind == "redis":
            with redis.Redis.from_url(self.url) as client:
                return int(client.llen(QUEUE))
        with kombu.Connection(self.url) as connection:
            try:
                channel: Any = connection.default_channel
                return int(channel.queue_declare(QUEUE, passive=True).message_count)
            except NotFound:
                return 0

    def empty(self) -> None:
        """Throw away what waits."""
        if self.kind == "redis":
            with redis.Redis.from_url(self.url) as client:
                client.flushdb()
        else:
            empty_rabbitmq(self.url)

    def restore(self) -> None:
        """End the fault."""
        self._undo.close()
        self.proxy.restore()

    # --- faults that are more than a mode of the proxy -------------------------------------------

    def hold_pool(self) -> None:
        """Take every connection of Celery's own pool."""
        app.conf.broker_pool_limit = 1
        self._undo.callback(setattr, app.conf, "broker_pool_limit", 10)
        self._undo.callback(app.pool.acquire(block=False).release)

    def refuse_clients(self) -> None:
        """Let the broker have as many clients as it takes, and drop those it has."""
        if self.server is not None:
            self.server.control("set_vhost_limits", "-p", "/", '{"max-connections": 0}')
            self._undo.callback(self.server.control, "clear_vhost_limits", "-p", "/")
        else:
            client = self._undo.enter_context(redis.Redis.from_url(self.url, max_connections=1))
            client.config_set("maxclients", 1)
            self._undo.callback(client.config_set, "maxclients", 10_000)
        self.proxy.set(Mode.RESET)
        self.proxy.set(Mode.PASS)

    def fill_memory(self) -> None:
        """Let the broker's memory be used up: it takes connections and no messages."""
        if self.server is not None:
            self.server.control("set_vm_memory_high_watermark", "0")
            self._undo.callback(self.server.control, "set_vm_memory_high_watermark", "0.4")
        else:
            client = self._undo.enter_context(redis.Redis.from_url(self.url))
            client.config_set("maxmemory", 1)
            self._undo.callback(client.config_set, "maxmemory", 0)


FAULTS: Final[Mapping[str, Callable[[FaultyBroker], None]]] = MappingProxyType(
    {
        "refused": lambda broker: broker.proxy.set(Mode.REFUSE),
        "reset": lambda broker: broker.proxy.set(Mode.RESET),
        "blackholed": lambda broker: broker.proxy.set(Mode.BLACKHOLE),
        "syn dropped": lambda broker: broker.proxy.set(Mode.SYN_DROP),
        "50 ms away": lambda broker: broker.proxy.delay(0.025),
        "500 ms away": lambda broker: broker.proxy.delay(0.25),
        "cut mid-publish": lambda broker: broker.proxy.cut_request(10, TASK, ALWAYS),
        "reply dropped": lambda broker: broker.proxy.drop_reply(TASK, ALWAYS),
        "pool exhausted": FaultyBroker.hold_pool,
        "clients refused": FaultyBroker.refuse_clients,
    }
)


def empty_rabbitmq(url: str) -> None:
    """Throw away the messages of a RabbitMQ broker."""
    with kombu.Connection(url) as connection, contextlib.suppress(NotFound):
        kombu.Queue(QUEUE, channel=connection.default_channel).purge()


@contextmanager
def faulty(kind: str, url: str, server: RabbitMQServer | None = None) -> Iterator[FaultyBroker]:
    """Let the Celery app of this process publish to a broker through a proxy."""
    with Proxy(address_of(url)) as proxy:
        broker = FaultyBroker(kind, url, proxy, server)
        broker.empty()
        with connected(broker.broker):
            try:
                yield broker
            finally:
                broker.restore()
