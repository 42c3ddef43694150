"""The errors of results.

::

    AsyncCacheError
    ├── NoResult        (also LookupError)  there is no record of a task
    ├── TaskFailed      stands for an error whose class cannot be had here
    ├── TaskTimeout     (also TimeoutError)  a call ran past its ``timeout``
    └── RecordRejected  stored bytes do not open; readers turn it into "no record"
"""

from __future__ import annotations

from async_cache.exceptions import AsyncCacheError

__all__ = ["NoResult", "RecordRejected", "TaskFailed", "TaskTimeout"]


class NoResult(AsyncCacheError, LookupError):
    """There is no record of the task: never stored, expired or forgotten."""


class RecordRejected(AsyncCacheError):
    """Stored bytes do not open: corrupt, truncated, foreign, forged or of another format."""


class TaskFailed(AsyncCacheError):
    """A task failed with an error that cannot be rebuilt in this process.

    Attributes:
        error_type: Qualified name of the class of the original.
        text: What the original said.
    """

    def __init__(self, error_type: str, text: str) -> None:
        super().__init__(error_type, text)
        self.error_type = error_type
        self.text = text

    def __str__(self) -> str:
        return f"{self.error_type}: {self.text}" if self.text else self.error_type


class TaskTimeout(AsyncCacheError, TimeoutError):
    """A call of `async_task` ran past its ``timeout``."""
