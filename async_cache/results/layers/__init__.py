"""Where records and groups live: the layer of a cache alias, or the database."""

from __future__ import annotations

import threading
from importlib import import_module

from async_cache import conf
from async_cache.results.conf import get_results_settings
from async_cache.results.layers.base import Changed, Counts, Layer
from async_cache.stores.base import Level
from async_cache.stores.registry import get_store

__all__ = ["Changed", "Counts", "Layer", "get_cache_layer", "get_database_layer", "get_layer"]

_lock = threading.Lock()
_layers: tuple[int, dict[str, Layer]] = (-1, {})


def get_layer(cached: bool | float | None = None) -> Layer:
    """Return the layer that a call means.

    Args:
        cached: True or seconds for the cache, False for the database, None for the setting.
    """
    if cached is None:
        cached = get_results_settings().cached
    return get_cache_layer() if cached else get_database_layer()


def get_cache_layer(alias: str | None = None) -> Layer:
    """Return the layer of a cache alias; None is the alias that the settings name.

    Raises:
        ConfigurationError: ``CACHES`` has no such alias, or its backend cannot be imported.
    """
    global _layers
    if alias is None:
        alias = get_results_settings().cache or conf.get_settings().cache
    epoch, kept = _layers
    layer = kept.get(alias) if epoch == conf.epoch else None
    if layer is None:
        with _lock:
            seen = conf.epoch
            if _layers[0] != seen:
                _layers = seen, {}
            layer = _layers[1].get(alias)
            if layer is None:
                layer = _layers[1][alias] = _make_layer(alias)
    return layer


def _make_layer(alias: str) -> Layer:
    prefix, expires = conf.get_settings().key_prefix, get_results_settings().expires
    if get_store(alias).level is Level.FENCED:
        from async_cache.results.layers.redis import RedisLayer

        return RedisLayer(alias, prefix, expires)
    from async_cache.results.layers.cache import CacheLayer

    return CacheLayer(alias, prefix, expires)


def get_database_layer() -> Layer:
    """Return the layer over the models, which can be imported once the apps are ready."""
    layer: Layer = import_module("async_cache.results.layers.database").get_database_layer()
    return layer
