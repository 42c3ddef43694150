# ruff: noqa: D102  (the contract, in base.py, documents the operations)
"""A fenced store over the Redis server of a cache alias: one round trip a read."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

from django.core.cache.backends.base import BaseCache, default_key_func
from django.core.cache.backends.redis import RedisCache
from redis import Redis
from redis.connection import ConnectionPool

from async_cache.breaker import StoreBreaker
from async_cache.exceptions import StoreUnavailable
from async_cache.stores.base import Claim, Claimed, Commit, Handle, Lease, Level, Outcome, Store
from async_cache.stores.exchanges import Exchange, Exchanges, Request
from async_cache.stores.pool import CHUNK, Link, Pool, is_stale
from async_cache.stores.resp import ErrorReply

__all__ = ["RedisStore", "key_maker", "note_failure", "paused", "primary_pool"]

T = TypeVar("T")

_COMMON_KEYS = {
    "django.core.cache.backends.redis.RedisCache",
    "django_redis.client.default.DefaultClient",
    "django_redis.client.sentinel.SentinelClient",
}

#: Codes of a server that will not answer the next command either.
DOWN = frozenset({"LOADING", "MASTERDOWN", "CLUSTERDOWN", "BUSY"})


def paused(alias: str) -> StoreUnavailable:
    """Return the error for a cache that is left alone for a moment."""
    return StoreUnavailable(
        f"The cache {alias!r} failed a moment ago; it is tried again in a second."
    )


def note_failure(alias: str, breaker: StoreBreaker, error: Exception) -> StoreUnavailable:
    """Open the breaker where the next command would fail too, and return the error to raise."""
    if not isinstance(error, ErrorReply) or error.code in DOWN:
        breaker.note(error, "exchange", time.monotonic())
    else:
        breaker.refused(error, f"exchange, {error.code}")
    if isinstance(error, ErrorReply):
        hint = ""
        if error.code in {"MOVED", "CROSSSLOT", "ASK"}:
            hint = " A Redis Cluster needs a cluster client in CACHES."
        return StoreUnavailable(f"The cache {alias!r} refused: {error}.{hint}")
    what = str(error).rstrip(".") or type(error).__name__
    if isinstance(error, BlockingIOError | TimeoutError):
        what = "no answer in time; see IO_TIMEOUT"
    return StoreUnavailable(f"The cache {alias!r} did not answer: {what}.")


def primary_pool(cache: Any) -> ConnectionPool | None:
    """Return the pool that a Redis cache writes with; None where keys are spread over servers."""
    client = cache._cache if isinstance(cache, RedisCache) else cache.client
    if type(client).__name__ == "ShardClient" or not hasattr(client, "get_client"):
        return None
    redis = client.get_client(write=True)
    pool = getattr(redis, "connection_pool", None)
    return pool if isinstance(redis, Redis) and isinstance(pool, ConnectionPool) else None


def key_maker(cache: BaseCache) -> Callable[[str], str]:
    """Return the cache's ``make_key``; in its common form, a faster one of the same meaning."""
    owner = type(getattr(cache, "client", cache))
    known = f"{owner.__module__}.{owner.__name__}" in _COMMON_KEYS
    if not known or cache.key_func is not default_key_func:
        return cache.make_key
    prefix = str(cache.make_key(""))
    return prefix.__add__


class RedisStore(Store):
    """A store over a Redis or Valkey server.

    Args:
        alias: Name in ``CACHES``.
        like: The connection pool of the alias's own client.
        make_key: The alias's own; turns a name into the key on the server.
        timeout: Longest wait for one exchange in seconds.
    """

    level: ClassVar[Level] = Level.FENCED

    def __init__(
        self, alias: str, like: ConnectionPool, make_key: Callable[[str], str], timeout: float
    ) -> None:
        self.alias = alias
        self.like = like
        self.timeout = self._timeout = timeout
        self.exchanges = self._exchanges = Exchanges(make_key)
        self.breaker = self._breaker = StoreBreaker(alias)
        self._pool = Pool(like, timeout)
        self._idle = self._pool.idle

    def prepare(self, names: Sequence[str]) -> Handle:
        return self._exchanges.prepare(names)

    def read(self, handle: Handle) -> list[bytes | None]:
        # The hot path: what a hit costs is decided here.
        if self._breaker.retry_at:
            return self._read_slowly(handle)
        try:
            link = self._idle.pop()
        except IndexError:
            return self._read_slowly(handle)
        started = time.monotonic()
        try:
            link.send(handle)
            link.feed(link.recv(CHUNK))
            reply = link.gets()
            if type(reply) is not list:
                reply = link.finish(reply, started + self._timeout)
        except BaseException as error:
            link.close()
            if not isinstance(error, Exception):
                raise
            return self._read_again(handle, error)
        self._pool.give_back(link)
        return self._values(reply)

    def _read_again(self, handle: bytes, error: Exception) -> list[bytes | None]:
        """Read on a fresh connection, when only the old one was the trouble."""
        if not is_stale(error):
            raise self._failed(error) from error
        self._pool.clear()
        return self._read_slowly(handle)

    def _read_slowly(self, handle: bytes) -> list[bytes | None]:
        return self._values(self._carry(Request(handle, 1))[0])

    def _values(self, reply: Any) -> list[bytes | None]:
        if type(reply) is not list:
            raise self._failed(reply) from reply
        return reply

    def read_many(self, handles: Sequence[Handle]) -> list[list[bytes | None]]:
        return self.drive(self._exchanges.read_many(handles))

    def claim(self, claims: Sequence[Claim]) -> list[Claimed]:
        return self.drive(self._exchanges.claim(claims))

    def commit(self, commits: Sequence[Commit]) -> list[Outcome]:
        return self.drive(self._exchanges.commit(commits))

    def renew(self, leases: Sequence[tuple[str, bytes, float]]) -> list[bool]:
        return self.drive(self._exchanges.renew(leases))

    def release(self, leases: Sequence[tuple[str, bytes, str]]) -> None:
        self.drive(self._exchanges.release(leases))

    def holders(self, leases: Sequence[str]) -> list[Lease | None]:
        return self.drive(self._exchanges.holders(leases))

    def put(self, items: Sequence[tuple[str, bytes, float]]) -> None:
        self.drive(self._exchanges.put(items))

    def remove(self, names: Sequence[str]) -> None:
        self.drive(self._exchanges.remove(names))

    def close(self) -> None:
        self._pool.clear()

    def drive(self, steps: Exchange[T]) -> T:
        """Carry out an operation, step by step, and return its result."""
        try:
            request = next(steps)
            while True:
                request = steps.send(self._carry(request))
        except StopIteration as end:
            result: T = end.value
            return result
        except ErrorReply as error:
            raise self._failed(error) from error

    def _carry(self, request: Request) -> list[Any]:
        """Exchange bytes with the server; at most once more on a fresh connection.

        Sending twice is safe: reads and blind writes repeat, scripts compare tokens.
        """
        if not self._breaker.admits(time.monotonic()):
            raise paused(self.alias)
        deadline = time.monotonic() + self._timeout
        try:
            replies = self._carry_on_idle(request, deadline)
            if replies is None:
                link = self._pool.connect(deadline)
                replies = self._use(link, request, deadline)
        except Exception as error:
            raise self._failed(error) from error
        self._breaker.answered(time.monotonic())
        return replies

    def _carry_on_idle(self, request: Request, deadline: float) -> list[Any] | None:
        try:
            link = self._idle.pop()
        except IndexError:
            return None
        try:
            replies = self._use(link, request, deadline)
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

    def _use(self, link: Link, request: Request, deadline: float) -> list[Any]:
        try:
            replies = link.exchange(request, deadline)
        except BaseException:
            link.close()
            raise
        self._pool.give_back(link)
        return replies

    def _failed(self, error: Exception) -> StoreUnavailable:
        return note_failure(self.alias, self._breaker, error)
