"""The store of each cache alias. Its adapter is imported when the first alias asks for it."""

from __future__ import annotations

import threading

from django.conf import settings
from django.core.cache import InvalidCacheBackendError, caches
from django.core.signals import setting_changed

from async_cache.conf import get_settings
from async_cache.exceptions import ConfigurationError
from async_cache.stores.base import AsyncStore, Store

__all__ = ["get_async_store", "get_store", "reset_stores"]

_REDIS_BACKENDS = {"django_redis.cache", "django.core.cache.backends.redis"}

# Reentrant: the asynchronous store is made from the synchronous one.
_lock = threading.RLock()
_stores: dict[str, Store] = {}
_async_stores: dict[str, AsyncStore] = {}


def get_store(alias: str) -> Store:
    """Return the store of a cache alias; the same one each time, for any thread.

    Raises:
        ConfigurationError: ``CACHES`` has no such alias, or its backend cannot be imported.
    """
    store = _stores.get(alias)
    if store is None:
        with _lock:
            store = _stores.get(alias)
            if store is None:
                store = _stores[alias] = _make_store(alias)
    return store


def get_async_store(alias: str) -> AsyncStore:
    """Return the store of a cache alias for coroutines; the same one each time, for any loop.

    Raises:
        ConfigurationError: ``CACHES`` has no such alias, or its backend cannot be imported.
    """
    store = _async_stores.get(alias)
    if store is None:
        with _lock:
            store = _async_stores.get(alias)
            if store is None:
                store = _async_stores[alias] = _make_async_store(alias)
    return store


def _is_redis(alias: str) -> bool:
    return any(cls.__module__ in _REDIS_BACKENDS for cls in type(caches[alias]).__mro__)


def _make_store(alias: str) -> Store:
    try:
        backend = caches[alias]
    except InvalidCacheBackendError as error:
        known = ", ".join(sorted(settings.CACHES))
        raise ConfigurationError(
            f"The cache {alias!r} cannot be used: {error} Aliases in CACHES: {known}."
        ) from error
    if _is_redis(alias):
        from async_cache.stores.redis import RedisStore, key_maker, primary_pool

        like = primary_pool(backend)
        if like is not None:
            return RedisStore(alias, like, key_maker(backend), get_settings().io_timeout)
    from async_cache.stores.django import make_django_store

    return make_django_store(alias, get_settings().max_lifetime)


def _make_async_store(alias: str) -> AsyncStore:
    store = get_store(alias)
    if _is_redis(alias):
        from async_cache.stores.aredis import AsyncRedisStore, speaks_plainly
        from async_cache.stores.redis import RedisStore

        if isinstance(store, RedisStore) and speaks_plainly(store):
            return AsyncRedisStore(store)
    from async_cache.stores.threaded import ThreadedStore

    return ThreadedStore(store)


def reset_stores() -> None:
    """Close the idle connections of all stores and forget the stores."""
    with _lock:
        closing: list[Store | AsyncStore] = [*_stores.values(), *_async_stores.values()]
        _stores.clear()
        _async_stores.clear()
    for store in closing:
        store.close()


def _on_setting_changed(*, setting: str, **_: object) -> None:
    if setting in {"CACHES", "ASYNC_CACHE", "DATABASES"}:
        reset_stores()


setting_changed.connect(_on_setting_changed, dispatch_uid="async_cache.stores")
