"""Asynchronous cache refreshing for Django: stale data at once, a worker refreshes it."""

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
from async_cache.keys import call
from async_cache.tags import ainvalidate_tags, invalidate_tags

__all__ = [
    "MISSING",
    "NOT_MODIFIED",
    "AsyncCacheError",
    "AsyncCacheJob",
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
    "ainvalidate_tags",
    "cached",
    "call",
    "invalidate_tags",
]
