# ruff: noqa: D102  (the contract, in base.py, documents the operations)
"""The Redis store for coroutines.

Speaks over plain non-blocking sockets, which belong to no event loop: a connection made under one
loop serves the next, as when ``async_to_sync`` starts a loop for each request. Making one takes a
thread, since redis-py greets the server synchronously; TLS goes through `ThreadedStore`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, TypeVar

from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection

from async_cache.stores.base import (
    AsyncStore,
    Claim,
    Claimed,
    Commit,
    Handle,
    Lease,
    Level,
    Outcome,
)
from async_cache.stores.exchanges import Exchange, Request
from async_cache.stores.pool import CHUNK, Link, Pool, is_stale
from async_cache.stores.redis import RedisStore, note_failure, paused
from async_cache.stores.resp import INCOMPLETE, ErrorReply

__all__ = ["AsyncRedisStore", "speaks_plainly"]

T = TypeVar("T")


def speaks_plainly(store: RedisStore) -> bool:
    """Tell whether the store's connections are plain sockets."""
    kind = store.like.connection_class
    return issubclass(kind, Connection | UnixDomainSocketConnection) and not issubclass(
        kind, SSLConnection
    )


class AsyncRedisStore(AsyncStore):
    """The twin of a `RedisStore`; both share a circuit breaker.

    Args:
        store: The synchronous store of the same alias.
    """

    level = Level.FENCED

    def __init__(self, store: RedisStore) -> None:
        self.alias = store.alias
        self._timeout = store.timeout
        self._exchanges = store.exchanges
        self._breaker = store.breaker
        self._pool = Pool(store.like, store.timeout)

    def prepare(self, names: Sequence[str]) -> Handle:
        return self._exchanges.prepare(names)

    async def read(self, handle: Handle) -> list[bytes | None]:
        [reply] = await self._carry(Request(handle, 1))
        if isinstance(reply, ErrorReply):
            raise note_failure(self.alias, self._breaker, reply) from reply
        values: list[bytes | None] = reply
        return values

    async def read_many(self, handles: Sequence[Handle]) -> list[list[bytes | None]]:
        return await self._drive(self._exchanges.read_many(handles))

    async def claim(self, claims: Sequence[Claim]) -> list[Claimed]:
        return await self._drive(self._exchanges.claim(claims))

    async def commit(self, commits: Sequence[Commit]) -> list[Outcome]:
        return await self._drive(self._exchanges.commit(commits))

    async def renew(self, leases: Sequence[tuple[str, bytes, float]]) -> list[bool]:
        return await self._drive(self._exchanges.renew(leases))

    async def release(self, leases: Sequence[tuple[str, bytes, str]]) -> None:
        await self._drive(self._exchanges.release(leases))

    async def holders(self, leases: Sequence[str]) -> list[Lease | None]:
        return await self._drive(self._exchanges.holders(leases))

    async def put(self, items: Sequence[tuple[str, bytes, float]]) -> None:
        await self._drive(self._exchanges.put(items))

    async def remove(self, names: Sequence[str]) -> None:
        await self._drive(self._exchanges.remove(names))

    def close(self) -> None:
        self._pool.clear()

    async def _drive(self, steps: Exchange[T]) -> T:
        try:
            request = next(steps)
            while True:
                request = steps.send(await self._carry(request))
        except StopIteration as end:
            result: T = end.value
            return result
        except ErrorReply as error:
            raise note_failure(self.alias, self._breaker, error) from error

    async def _carry(self, request: Request) -> list[Any]:
        """Exchange bytes with the server; at most once more on a fresh connection."""
        if not self._breaker.admits(time.monotonic()):
            raise paused(self.alias)
        try:
            async with asyncio.timeout(self._timeout):
                replies = await self._carry_on_idle(request)
                if replies is None:
                    replies = await self._use(await self._connect(), request)
        except Exception as error:
            raise note_failure(self.alias, self._breaker, error) from error
        self._breaker.answered(time.monotonic())
        return replies

    async def _carry_on_idle(self, request: Request) -> list[Any] | None:
        try:
            link = self._pool.idle.pop()
        except IndexError:
            return None
        try:
            replies = await self._use(link, request)
        except Exception as error:
            if not is_stale(error):
                raise
            self._pool.clear()
            return None
        if any(isinstance(r, ErrorReply) and r.code == "READONLY" for r in replies):
            # A primary that was demoted; Sentinel knows the new one.
            self._pool.clear()
            return None
        return replies

    async def _connect(self) -> Link:
        deadline = time.monotonic() + self._timeout
        making = asyncio.ensure_future(asyncio.to_thread(self._pool.connect, deadline))
        try:
            link = await asyncio.shield(making)
        except asyncio.CancelledError:
            making.add_done_callback(_drop)
            raise
        link.sock.setblocking(False)
        return link

    async def _use(self, link: Link, request: Request) -> list[Any]:
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(link.sock, request.data)
            replies = []
            for _ in range(request.replies):
                while (reply := link.gets()) is INCOMPLETE:
                    data = await loop.sock_recv(link.sock, CHUNK)
                    if not data:
                        raise ConnectionResetError("the server closed the connection")
                    link.feed(data)
                replies.append(reply)
        except BaseException:
            # A cancelled caller leaves its reply on the way; nobody else may read it.
            link.close()
            raise
        self._pool.give_back(link)
        return replies


def _drop(making: asyncio.Future[Link]) -> None:
    """Close a connection that was made for a caller who has gone."""
    if not making.cancelled() and making.exception() is None:
        making.result().close()
