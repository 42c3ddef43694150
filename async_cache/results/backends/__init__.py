"""Result backends for Celery: the database, any cache of Django, and Redis with the database."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from async_cache.results.backends.cache import CacheBackend
    from async_cache.results.backends.database import DatabaseBackend
    from async_cache.results.backends.redis import WriteThroughBackend

__all__ = ["CacheBackend", "DatabaseBackend", "WriteThroughBackend"]

_WHERE = {
    "CacheBackend": "async_cache.results.backends.cache",
    "DatabaseBackend": "async_cache.results.backends.database",
    "WriteThroughBackend": "async_cache.results.backends.redis",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_WHERE[name]), name)
    return value
