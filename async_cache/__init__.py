"""Asynchronous cache refreshing for Django: stale data at once, a worker refreshes it.

The names below are imported when first used: what only lists the app, such as a management command
that caches nothing, does not pay for the rest.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from async_cache.context import NOT_MODIFIED, FetchContext
    from async_cache.decorators import cached
    from async_cache.entry import MISSING, Status
    from async_cache.exceptions import (
        AsyncCacheError,
        ConfigurationError,
        DispatchFailed,
        FetchTimeout,
        FetchUnavailable,
        RecursiveFetch,
        StoreUnavailable,
        UnkeyableArgument,
        UnknownJob,
        UnstorableValue,
    )
    from async_cache.jobs.answers import Explanation, RefreshHandle
    from async_cache.jobs.base import AsyncCacheJob
    from async_cache.jobs.queryset import QuerySetFilterJob, QuerySetGetJob
    from async_cache.keys import Call, call
    from async_cache.tags import ainvalidate_tags, invalidate_tags
    from async_cache.vary import Vary

__all__ = [
    "MISSING",
    "NOT_MODIFIED",
    "AsyncCacheError",
    "AsyncCacheJob",
    "Call",
    "ConfigurationError",
    "DispatchFailed",
    "Explanation",
    "FetchContext",
    "FetchTimeout",
    "FetchUnavailable",
    "QuerySetFilterJob",
    "QuerySetGetJob",
    "RecursiveFetch",
    "RefreshHandle",
    "Status",
    "StoreUnavailable",
    "UnkeyableArgument",
    "UnknownJob",
    "UnstorableValue",
    "Vary",
    "ainvalidate_tags",
    "cached",
    "call",
    "invalidate_tags",
]

_MODULES = {
    "async_cache.context": ("NOT_MODIFIED", "FetchContext"),
    "async_cache.decorators": ("cached",),
    "async_cache.entry": ("MISSING", "Status"),
    "async_cache.exceptions": (
        "AsyncCacheError",
        "ConfigurationError",
        "DispatchFailed",
        "FetchTimeout",
        "FetchUnavailable",
        "RecursiveFetch",
        "StoreUnavailable",
        "UnkeyableArgument",
        "UnknownJob",
        "UnstorableValue",
    ),
    "async_cache.jobs.answers": ("Explanation", "RefreshHandle"),
    "async_cache.jobs.base": ("AsyncCacheJob",),
    "async_cache.jobs.queryset": ("QuerySetFilterJob", "QuerySetGetJob"),
    "async_cache.keys": ("Call", "call"),
    "async_cache.tags": ("ainvalidate_tags", "invalidate_tags"),
    "async_cache.vary": ("Vary",),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    module = _WHERE.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(module), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
