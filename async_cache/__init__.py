"""Asynchronous cache refreshing for Django: stale data at once, a worker refreshes it."""

from async_cache.context import NOT_MODIFIED, FetchContext
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
from async_cache.keys import call

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
    "RecursiveFetch",
    "RefreshHandle",
    "Status",
    "StoreUnavailable",
    "UnkeyableArgument",
    "UnknownJob",
    "UnstorableValue",
    "call",
]
