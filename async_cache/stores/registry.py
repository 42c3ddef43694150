"""The store of each cache alias."""

from __future__ import annotations

import threading

from django.conf import settings
from django.core.cache import InvalidCacheBackendError, caches
from django.core.signals import setting_changed

from async_cache.conf import get_settings
from async_cache.exceptions import ConfigurationError
from async_cache.stores.base import Store
from async_cache.stores.django import make_django_store

__all__ = ["get_store", "reset_stores"]

_REDIS_BACKENDS = {"django_redis.cache", "django.core.cache.backends.redis"}

_lock = threading.Lock()
_stores: dict[str, Store] = {}


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


def _make_store(alias: str) -> Store:
    try:
        caches[alias]
    except InvalidCacheBackendError as error:
        known = ", ".join(sorted(settings.CACHES))
        raise ConfigurationError(
            f"The cache {alias!r} cannot be used: {error} Aliases in CACHES: {known}."
        ) from error
    return _make_redis_store(alias) or make_django_store(alias, get_settings().max_lifetime)


def _make_redis_store(alias: str) -> Store | None:
    """Return a fenced store when the alias's backend is over a plain Redis client."""
    backend = caches[alias]
    # Both need redis-py; a backend that is not loaded is not this alias's.
    if not any(cls.__module__ in _REDIS_BACKENDS for cls in type(backend).__mro__):
        return None
    from async_cache.stores.redis import RedisStore, primary_pool

    like = primary_pool(backend)
    return RedisStore(alias, like, get_settings().io_timeout) if like is not None else None


def reset_stores() -> None:
    """Close all stores and forget them."""
    with _lock:
        closing = list(_stores.values())
        _stores.clear()
    for store in closing:
        store.close()


def _on_setting_changed(*, setting: str, **_: object) -> None:
    if setting in {"CACHES", "ASYNC_CACHE", "DATABASES"}:
        reset_stores()


setting_changed.connect(_on_setting_changed, dispatch_uid="async_cache.stores")
