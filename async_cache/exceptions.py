"""Every error the package raises.

::

    AsyncCacheError
    ├── ConfigurationError      (also ImproperlyConfigured)  a setting or class is wrong
    ├── UnkeyableArgument       (also TypeError, RuntimeError)  an argument has no key
    ├── UnstorableValue         (also ValueError)  a value cannot be stored
    ├── FetchUnavailable        no value now: another's fetch runs, or the last one failed
    ├── FetchTimeout            (also TimeoutError)  a fetch ran past its fetch_timeout
    ├── RecursiveFetch          (also RuntimeError)  a fetch asked for its own key
    ├── StoreUnavailable        (also ConnectionError)  the cache did not answer
    ├── DispatchFailed          (also ConnectionError)  the dispatcher did not take a refresh
    ├── UnknownJob              (also LookupError)  a name is not in the registry of jobs
    ├── EntryRejected           stored bytes do not open; readers turn it into a miss
    └── MessageRejected         a message does not open; workers drop it
"""

from __future__ import annotations

from django.core.exceptions import ImproperlyConfigured

__all__ = [
    "AsyncCacheError",
    "ConfigurationError",
    "DispatchFailed",
    "EntryRejected",
    "FetchTimeout",
    "FetchUnavailable",
    "MessageRejected",
    "RecursiveFetch",
    "StoreUnavailable",
    "UnkeyableArgument",
    "UnknownJob",
    "UnstorableValue",
]


class AsyncCacheError(Exception):
    """Root of the package's errors."""


class ConfigurationError(AsyncCacheError, ImproperlyConfigured):
    """A setting, an option or a job class is wrong; the message names it and the remedy."""


class UnkeyableArgument(AsyncCacheError, TypeError, RuntimeError):
    """An argument of a call has no canonical form, so it cannot be part of a key."""


class UnstorableValue(AsyncCacheError, ValueError):
    """A fetched value cannot be stored: not serializable, or larger than the cap."""


class FetchUnavailable(AsyncCacheError):
    """No value can be had now.

    Attributes:
        error_type: Qualified name of the exception that the last fetch raised, or an empty string
            when the fetch is still running elsewhere.
        retry_after: Seconds until a fetch will be tried again, or None when not known.
    """

    def __init__(
        self, message: str, *, error_type: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.retry_after = retry_after


class FetchTimeout(AsyncCacheError, TimeoutError):
    """A fetch ran past the job's ``fetch_timeout``."""


class RecursiveFetch(AsyncCacheError, RuntimeError):
    """A job's ``fetch`` asked for the very key it is fetching."""


class StoreUnavailable(AsyncCacheError, ConnectionError):
    """The cache did not answer; the driver's own error is the ``__cause__``."""


class DispatchFailed(AsyncCacheError, ConnectionError):
    """The dispatcher did not take a refresh; the driver's own error is the ``__cause__``."""


class UnknownJob(AsyncCacheError, LookupError):
    """A job name is not in the registry, or its module may not be imported."""


class EntryRejected(AsyncCacheError):
    """Stored bytes do not open: corrupt, truncated, foreign, forged or of another format."""


class MessageRejected(AsyncCacheError):
    """A message does not open: forged, corrupt, expired or of another version.

    Attributes:
        reason: ``"forged"``, ``"expired"`` or ``"malformed"``, as `refresh_dropped` announces it.
    """

    def __init__(self, message: str, *, reason: str = "malformed") -> None:
        super().__init__(message)
        self.reason = reason
