"""Connections to a Redis server: redis-py makes them, the hot path uses their sockets.

redis-py knows how to reach a server (TLS, Unix sockets, Sentinel, credentials) and greets it. From
then on a `Link` sends packed commands and reads replies itself, which costs half as much. A
connection whose socket cannot be used so is driven through its public methods.
"""

from __future__ import annotations

import copy
import os
import socket
import struct
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from async_cache.stores.exchanges import Request
from async_cache.stores.resp import INCOMPLETE, ErrorReply, new_reader

__all__ = ["CHUNK", "Link", "Pool", "is_stale"]

CHUNK = 65_536
MAX_IDLE = 64

# Settings of redis-py's own pool that have no meaning here, or would make the server push.
_FOREIGN = ("maint_", "maintenance_", "oss_cluster_", "orig_", "himport_", "event_dispatcher")
# redis-py takes the code off these.
_CODES = {"NoScriptError": "NOSCRIPT", "ReadOnlyError": "READONLY", "BusyLoadingError": "LOADING"}


def connection_options(pool: ConnectionPool, timeout: float) -> dict[str, Any]:
    """Return how to make a connection like the pool's, with our timeouts and no hidden retries."""
    options = {k: v for k, v in pool.connection_kwargs.items() if not k.startswith(_FOREIGN)}
    if hasattr(options.get("connection_pool"), "sentinel_manager"):
        options["connection_pool"] = _bounded_sentinels(options["connection_pool"], timeout)
    return options | {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_timeout": False,
        "retry_on_error": [],
        "health_check_interval": 0,
        "decode_responses": False,
        "protocol": 2,
    }


def _bounded_sentinels(proxy: Any, timeout: float) -> Any:
    """Return a copy of what asks the Sentinels for the primary, which waits no longer than this."""
    proxy = copy.copy(proxy)
    manager = proxy.sentinel_manager = copy.copy(proxy.sentinel_manager)
    manager.sentinels = [
        Redis(
            connection_pool=ConnectionPool(
                like.connection_class, **connection_options(like, timeout)
            )
        )
        for like in [sentinel.connection_pool for sentinel in manager.sentinels]
    ]
    return proxy


def is_stale(error: BaseException) -> bool:
    """Tell whether the server had left this connection, which says nothing of the next one."""
    if isinstance(error, RedisConnectionError):
        return not isinstance(error, RedisTimeoutError)
    return isinstance(error, ConnectionError)


def error_reply(error: ResponseError) -> ErrorReply:
    """Return redis-py's error as the server's words."""
    code = _CODES.get(type(error).__name__)
    return ErrorReply(f"{code} {error}" if code else str(error))


def _timeval(seconds: float) -> bytes:
    micros = max(1_000, int(seconds * 1_000_000))
    return struct.pack("ll", micros // 1_000_000, micros % 1_000_000)


class Link:
    """One connection, in use by one thread at a time.

    Any exception between `send` and the last reply leaves it unusable: close it.
    """

    __slots__ = (
        "_connection",
        "_in_kernel",
        "_limit",
        "_timeout",
        "feed",
        "gets",
        "has_data",
        "recv",
        "send",
        "sock",
    )

    sock: socket.socket
    send: Callable[[bytes], object]
    recv: Callable[[int], bytes]
    feed: Callable[[bytes], object]
    gets: Callable[[], Any]
    has_data: Callable[[], bool]

    def __init__(self, connection: Any, sock: socket.socket, timeout: float) -> None:
        self._connection = connection
        self.sock = sock
        self._timeout = timeout
        # Python's own timeouts cost a poll for each call; the kernel's cost nothing. TLS and
        # patched sockets (gevent) need Python's.
        self._in_kernel = sys.platform != "win32" and type(sock).__module__ == "socket"
        if self._in_kernel:
            sock.settimeout(None)
        self._set_limit(timeout)
        reader = new_reader()
        self.send, self.recv = sock.sendall, sock.recv
        self.feed, self.gets, self.has_data = reader.feed, reader.gets, reader.has_data

    def exchange(self, request: Request, deadline: float) -> list[Any]:
        """Send commands and return their replies, before the deadline or not at all."""
        self._write(request.data, deadline)
        replies = [self.finish(self.gets(), deadline) for _ in range(request.replies)]
        if self._limit != self._timeout:
            self._set_limit(self._timeout)
        return replies

    def finish(self, reply: Any, deadline: float) -> Any:
        """Return a reply of which a part may be missing yet."""
        while reply is INCOMPLETE:
            self._check(deadline)
            data = self.recv(CHUNK)
            if not data:
                raise ConnectionResetError("the server closed the connection")
            self.feed(data)
            reply = self.gets()
        return reply

    def _write(self, data: bytes, deadline: float) -> None:
        rest = memoryview(data)
        while len(rest):
            self._check(deadline)
            rest = rest[self.sock.send(rest[:CHUNK]) :]

    def _check(self, deadline: float) -> None:
        """Let no wait reach past the deadline, however slowly the bytes drip."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the server did not answer in time")
        if left < self._limit * 0.9:
            self._set_limit(left)

    def _set_limit(self, seconds: float) -> None:
        self._limit = seconds
        if self._in_kernel:
            timeval = _timeval(seconds)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
        else:
            self.sock.settimeout(seconds)

    def close(self) -> None:
        """Close the connection."""
        self._connection.disconnect()


class PublicLink(Link):
    """A connection driven through redis-py's public methods, for classes we know nothing of."""

    __slots__ = ()

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._limit = self._timeout = 0.0
        self.send = self._send
        self.recv = lambda _: b"-"
        self.feed = lambda _: None
        self.gets = self._gets
        self.has_data = lambda: False

    def _send(self, data: bytes) -> None:
        self._connection.send_packed_command([data], check_health=False)

    def _gets(self) -> Any:
        try:
            return self._connection.read_response(disable_decoding=True)
        except ResponseError as error:
            return error_reply(error)

    def _write(self, data: bytes, deadline: float) -> None:
        self._check(deadline)
        self._send(data)

    def _set_limit(self, seconds: float) -> None:
        """Do nothing: the connection has its own timeouts."""


def open_link(connection: Any, timeout: float) -> Link:
    """Connect, greet the server and return the link."""
    try:
        connection.connect()
        sock = getattr(connection, "_sock", None)
        if isinstance(sock, socket.socket):
            return Link(connection, sock, timeout)
        return PublicLink(connection)
    except BaseException:
        connection.disconnect()
        raise


class Pool:
    """Idle connections, the last used first, and how to make more.

    Args:
        like: The pool of the alias's own client; never used to connect.
        timeout: Longest wait for one exchange in seconds.
    """

    def __init__(self, like: ConnectionPool, timeout: float) -> None:
        self._like = like
        self._timeout = timeout
        self._options = connection_options(like, timeout)
        self.idle: deque[Link] = deque()
        _pools.add(self)

    def connect(self, deadline: float) -> Link:
        """Make a connection before the deadline."""
        left = max(0.01, min(self._timeout, deadline - time.monotonic()))
        options = self._options | {"socket_timeout": left, "socket_connect_timeout": left}
        return open_link(self._like.connection_class(**options), self._timeout)

    def give_back(self, link: Link) -> None:
        """Keep a connection for the next user."""
        if link.has_data() or len(self.idle) >= MAX_IDLE:
            link.close()
        else:
            self.idle.append(link)

    def clear(self) -> None:
        """Close all idle connections."""
        while self.idle:
            try:
                link = self.idle.pop()
            except IndexError:
                return
            link.close()


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def _forget() -> None:
    # The parent goes on using the sockets; closing our copies of them does not disturb it.
    for pool in list(_pools):
        pool.idle.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
