"""Result backends for Celery: the database, and any cache of Django."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from async_cache.results.backends.cache import CacheBackend
    from async_cache.results.backends.database import DatabaseBackend

__all__ = ["CacheBackend", "DatabaseBackend"]

_WHERE = {
    "CacheBackend": "async_cache.results.backends.cache",
    "DatabaseBackend": "async_cache.results.backends.database",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_WHERE[name]), name)
    return value
