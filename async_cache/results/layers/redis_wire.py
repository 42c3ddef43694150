# ruff: noqa: D102  (the contract, in waiting/topics.py, documents the operations)
"""The Pub/Sub connection on which a Redis server tells of what becomes ready."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Collection, Sequence
from itertools import islice
from typing import Any, Final

from async_cache.results.waiting.topics import GROUP, News, Topic, Wire
from async_cache.stores.pool import CHUNK, Link, Pool, PublicLink
from async_cache.stores.redis import RedisStore
from async_cache.stores.resp import INCOMPLETE, ErrorReply, pack

__all__ = ["RedisWire"]

BATCH: Final = 500
"""Channels of one command."""
MOST_READS: Final = 16
"""Before those who wait are told of what was read."""

_Selector: Final[Any] = getattr(selectors, "PollSelector", selectors.SelectSelector)


class RedisWire(Wire):
    """A subscription for each topic.

    Args:
        link: The connection, for this wire alone.
        channel: Returns a topic's channel.
        timeout: Longest wait for the server to answer a command.
    """

    def __init__(self, link: Link, channel: Callable[[Topic], bytes], timeout: float) -> None:
        self._link = link
        self._channel = channel
        self._timeout = timeout
        self._topics: dict[bytes, Topic] = {}
        self._heard: list[News] = []

    @classmethod
    def open(cls, store: RedisStore, channel: Callable[[Topic], bytes]) -> RedisWire | None:
        """Connect as the store does; None where its connections have no socket to wait on."""
        timeout = store.timeout
        link = Pool(store.like, timeout).connect(time.monotonic() + timeout)
        if isinstance(link, PublicLink):
            link.close()
            return None
        return cls(link, channel, timeout)

    def fileno(self) -> int:
        return self._link.sock.fileno()

    def follow(self, topics: Collection[Topic]) -> None:
        wanted = {self._channel(topic): topic for topic in topics}
        self._topics |= wanted
        left = set(wanted)
        deadline = time.monotonic() + self._timeout
        for channels in _batches(wanted):
            self._link.send(pack(b"SUBSCRIBE", *channels))
        while left:
            if time.monotonic() >= deadline:
                raise TimeoutError("the server did not confirm a subscription in time")
            left -= self._receive()

    def leave(self, topics: Collection[Topic]) -> None:
        channels = [self._channel(topic) for topic in topics]
        for channel in channels:
            self._topics.pop(channel, None)
        for batch in _batches(channels):
            self._link.send(pack(b"UNSUBSCRIBE", *batch))

    def hear(self) -> list[News]:
        for _ in range(MOST_READS):
            if not _has_data(self._link.sock):
                break
            self._receive()
        heard, self._heard = self._heard, []
        return heard

    def _receive(self) -> set[bytes]:
        """Take what has come; return the channels whose subscription the server confirmed."""
        try:
            data = self._link.recv(CHUNK)
        except (BlockingIOError, TimeoutError):
            # Half a record of TLS, or nothing that is for us.
            return set()
        if not data:
            raise ConnectionResetError("the server closed the connection")
        self._link.feed(data)
        confirmed = set()
        while (reply := self._link.gets()) is not INCOMPLETE:
            if isinstance(reply, ErrorReply):
                raise reply
            match reply:
                case [b"message", bytes(channel), bytes(message)]:
                    self._note(channel, message)
                case [b"subscribe", bytes(channel), _]:
                    confirmed.add(channel)
        return confirmed

    def _note(self, channel: bytes, message: bytes) -> None:
        topic = self._topics.get(channel)
        if topic is None:
            return
        ended = None
        if topic.kind == GROUP:
            successes, _, failures = message.partition(b":")
            if successes.isdigit() and failures.isdigit():
                ended = int(successes) + int(failures)
        self._heard.append(News(topic, ended))

    def close(self) -> None:
        self._link.close()


def _batches(channels: Collection[bytes]) -> list[Sequence[bytes]]:
    left = iter(channels)
    found: list[Sequence[bytes]] = []
    while batch := list(islice(left, BATCH)):
        found.append(batch)
    return found


def _has_data(sock: Any) -> bool:
    """Tell whether a read would return at once."""
    pending = getattr(sock, "pending", None)
    if pending is not None and pending():
        # TLS has read more than it gave.
        return True
    with _Selector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        return bool(selector.select(0))
