"""Brokers behind a proxy, and what is to be seen of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import kombu
import redis
from amqp.exceptions import NotFound

from tests.faults.proxy import Proxy, address_of, through
from tests.workers import Broker, connected

__all__ = ["FaultyBroker", "faulty"]

QUEUE = "celery"


@dataclass
class FaultyBroker:
    """A broker that this process reaches through a proxy.

    Attributes:
        kind: ``redis`` or ``rabbitmq``.
        url: Where it really is: workers that are not part of the fault use this.
        proxy: What stands between it and this process.
    """

    kind: str
    url: str
    proxy: Proxy

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
            return
        with kombu.Connection(self.url) as connection, contextlib.suppress(NotFound):
            kombu.Queue(QUEUE, channel=connection.default_channel).purge()


@contextmanager
def faulty(kind: str, url: str) -> Iterator[FaultyBroker]:
    """Let the Celery app of this process publish to a broker through a proxy."""
    with Proxy(address_of(url)) as proxy:
        broker = FaultyBroker(kind, url, proxy)
        broker.empty()
        with connected(broker.broker):
            try:
                yield broker
            finally:
                proxy.restore()
