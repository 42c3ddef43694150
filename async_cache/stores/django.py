# ruff: noqa: D102  (the contract, in base.py, documents the operations)
"""A store over any Django cache."""

from __future__ import annotations

import math
import pickle
import threading
import time
import zlib
from collections.abc import Sequence
from typing import Any

from django.core.cache import caches
from django.core.cache.backends.base import BaseCache
from django.core.cache.backends.db import BaseDatabaseCache
from django.core.cache.backends.dummy import DummyCache
from django.core.cache.backends.filebased import FileBasedCache
from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.memcached import BaseMemcachedCache

from async_cache.breaker import StoreBreaker
from async_cache.entry import new_stamp
from async_cache.exceptions import StoreUnavailable
from async_cache.stores.base import Claim, Claimed, Commit, Handle, Lease, Outcome
from async_cache.stores.database import Detour, sqlite_loses_writes
from async_cache.stores.validated import ValidatedStore

__all__ = ["DatabaseStore", "DjangoStore", "MemcachedStore", "NullStore", "make_django_store"]

# What unpickling foreign or damaged bytes raises. An outage raises none of them.
_DAMAGED = (
    pickle.UnpicklingError,
    zlib.error,
    AttributeError,
    EOFError,
    ImportError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
)
# What a healthy Memcached says to a value that is too large for it.
_REFUSALS = {"MemcacheServerError", "MemcacheClientError", "TooBig"}
# Half of what Memcached takes unless told otherwise (-I).
LARGE = 512 * 1024


class _Own(threading.local):
    """The cache object of each thread.

    Django keeps one for each thread and task, and looking it up costs more than checking a seal. A
    store's calls do not yield to an event loop, so one a thread is enough.
    """

    def __init__(self, alias: str) -> None:
        self.cache: BaseCache = caches[alias]


class DjangoStore(ValidatedStore):
    """A validated store over the Django cache of an alias.

    Args:
        alias: Name in ``CACHES``.
        stamp_life: Seconds that a stamp lives.
    """

    def __init__(self, alias: str, stamp_life: float) -> None:
        super().__init__(stamp_life)
        self.alias = alias
        self._breaker = StoreBreaker(alias)
        self._own = _Own(alias)
        cache = caches[alias]
        self.shares = not isinstance(cache, LocMemCache)
        self.elects = not isinstance(cache, FileBasedCache)
        # These two keep fractions of a second; elsewhere a timeout is a whole number.
        self._exact = isinstance(cache, LocMemCache | FileBasedCache)

    def read(self, handle: Handle) -> list[bytes | None]:
        # The hot path: what a hit costs over the cache's own get_many is decided here.
        if self._breaker.retry_at:
            return super().read(handle)
        try:
            find = self._perform(self._own.cache, "get_many", handle).get
        except Exception as error:  # noqa: BLE001 - announced, and raised again but for damage
            find = self._one_by_one(handle, self._failed("get_many", error)).get
        as_bytes = self.as_bytes
        return [
            raw if type(raw := find(name)) is bytes else as_bytes(raw)  # most are; calls cost
            for name in handle
        ]

    def get_many(self, names: Sequence[str]) -> dict[str, object]:
        try:
            found: dict[str, object] = self._call("get_many", names)
        except StoreUnavailable as error:
            return self._one_by_one(names, error)
        return found

    def _one_by_one(self, names: Sequence[str], error: StoreUnavailable) -> dict[str, object]:
        """Read again after damage, so that one damaged value does not hide the others."""
        if not isinstance(error.__cause__, _DAMAGED):
            raise error
        return {name: self._get(name) for name in names}

    def _get(self, name: str) -> object:
        try:
            return self._call("get", name)
        except StoreUnavailable as error:
            if not isinstance(error.__cause__, _DAMAGED):
                raise
            return b""

    def set(self, name: str, value: bytes, seconds: float) -> None:
        self._call("set", name, value, self._timeout(seconds))

    def set_many(self, values: dict[str, bytes], seconds: float) -> None:
        refused = self._call("set_many", values, self._timeout(seconds))
        if refused:
            error = StoreUnavailable(
                f"The cache {self.alias!r} refused {len(refused)} of {len(values)} values. "
                "A value may be larger than it takes."
            )
            self._breaker.refused(error, "set_many, refused")
            raise error

    def add(self, name: str, value: bytes, seconds: float) -> bool:
        return bool(self._call("add", name, value, self._timeout(seconds)))

    def touch(self, name: str, seconds: float) -> bool:
        return bool(self._call("touch", name, self._timeout(seconds)))

    def delete_many(self, names: Sequence[str]) -> None:
        self._call("delete_many", names)

    def put(self, items: Sequence[tuple[str, bytes, float]]) -> None:
        # Django's caches may fail to write without a word; an invalidation must not.
        super().put(items)
        lost = self._missing(items)
        if lost:
            super().put(lost)
            if self._missing(lost):
                raise StoreUnavailable(
                    f"The cache {self.alias!r} took {len(lost)} of {len(items)} values and does "
                    "not have them. It may be full, locked or read-only."
                )

    def _missing(self, items: Sequence[tuple[str, bytes, float]]) -> list[tuple[str, bytes, float]]:
        last = {item[0]: item for item in items}
        found = self.get_many(list(last)) if last else {}
        return [item for name, item in last.items() if found.get(name) != item[1]]

    def close(self) -> None:
        """Do nothing: the connections are Django's, which closes them after each request."""

    def _timeout(self, seconds: float) -> float:
        return seconds if self._exact else max(1, math.ceil(seconds))

    def _call(self, method: str, *args: Any) -> Any:
        breaker = self._breaker
        if breaker.retry_at and not breaker.admits(time.monotonic()):
            raise StoreUnavailable(
                f"The cache {self.alias!r} failed a moment ago; it is tried again in a second."
            )
        try:
            result = self._perform(self._own.cache, method, *args)
        except Exception as error:
            raise self._failed(method, error) from error
        if breaker.retry_at:
            breaker.answered(time.monotonic())
        return result

    def _failed(self, method: str, error: Exception) -> StoreUnavailable:
        """Note a failure and return the error to raise for it."""
        damaged = method.startswith("get") and isinstance(error, _DAMAGED)
        if type(error).__name__ in _REFUSALS:
            self._breaker.refused(error, f"{method}, refused")
        elif not damaged:
            self._breaker.note(error, method, time.monotonic())
        failed = StoreUnavailable(
            f"The cache {self.alias!r} failed to {method}: {type(error).__qualname__}."
        )
        failed.__cause__ = error
        return failed

    def _perform(self, cache: BaseCache, method: str, *args: Any) -> Any:
        return getattr(cache, method)(*args)


class DatabaseStore(DjangoStore):
    """A store over Django's DatabaseCache, which keeps out of the caller's transactions."""

    def __init__(self, alias: str, stamp_life: float) -> None:
        super().__init__(alias, stamp_life)
        cache = caches[alias]
        assert isinstance(cache, BaseDatabaseCache)
        self._detour = Detour(cache.cache_model_class)
        self.elects = not sqlite_loses_writes(self._detour.write_alias)

    @property
    def writable_now(self) -> bool:
        """Whether a write made now takes effect at once, rather than with a transaction."""
        return self._detour.writable_now

    def _timeout(self, seconds: float) -> float:
        # The backend cuts the end to the whole second before it.
        return math.ceil(seconds) + 1

    def _perform(self, cache: BaseCache, method: str, *args: Any) -> Any:
        return self._detour.run(getattr(cache, method), *args)

    def close(self) -> None:
        """Close this thread's own connection, if it has one."""
        self._detour.close()


class MemcachedStore(DjangoStore):
    """A store over Memcached, which drops the old value when a new one is too large for it."""

    def set(self, name: str, value: bytes, seconds: float) -> None:
        self._try_aside({name: value})
        super().set(name, value, seconds)

    def set_many(self, values: dict[str, bytes], seconds: float) -> None:
        self._try_aside(values)
        super().set_many(values, seconds)

    def _try_aside(self, values: dict[str, bytes]) -> None:
        """Write what is large under another key first: refused there, it destroys nothing."""
        for name, value in values.items():
            if len(value) > LARGE:
                aside = f"{name}.large"
                super().set_many({aside: value}, 1.0)
                self.delete_many([aside])


class NullStore(DjangoStore):
    """A store that keeps nothing: every claim wins and every read misses."""

    def __init__(self, alias: str, stamp_life: float) -> None:
        super().__init__(alias, stamp_life)
        self.shares = self.elects = False

    def claim(self, claims: Sequence[Claim]) -> list[Claimed]:
        return [
            Claimed(
                won=True,
                holder=Lease(c.phase, c.token, 0),
                attempts=0,
                stamps=tuple(new_stamp() for _ in c.stamps),
                values=(None,) * len(c.reads),
            )
            for c in claims
        ]

    def commit(self, commits: Sequence[Commit]) -> list[Outcome]:
        return [Outcome.COMMITTED for _ in commits]

    def renew(self, leases: Sequence[tuple[str, bytes, float]]) -> list[bool]:
        return [True for _ in leases]

    def put(self, items: Sequence[tuple[str, bytes, float]]) -> None:
        """Do nothing."""


def make_django_store(alias: str, stamp_life: float) -> DjangoStore:
    """Return the store that fits the Django cache of an alias."""
    cache = caches[alias]
    if isinstance(cache, BaseDatabaseCache):
        return DatabaseStore(alias, stamp_life)
    if isinstance(cache, DummyCache):
        return NullStore(alias, stamp_life)
    if isinstance(cache, BaseMemcachedCache):
        return MemcachedStore(alias, stamp_life)
    return DjangoStore(alias, stamp_life)
