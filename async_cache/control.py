"""Reach workers through the project's Celery app, in bounded time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from celery import current_app
from kombu.exceptions import OperationalError

from async_cache.exceptions import AsyncCacheError

__all__ = ["NotSent", "connected"]

CONNECT_SECONDS: Final = 3.0
"""The longest wait for the broker."""


class NotSent(AsyncCacheError):
    """Nothing was sent; the message says why."""


@contextmanager
def connected() -> Iterator[Any]:
    """Connect to the broker.

    Raises:
        NotSent: It does not answer.
    """
    connection: Any = current_app.connection_for_write(connect_timeout=CONNECT_SECONDS)
    try:
        connection.ensure_connection(max_retries=1, timeout=CONNECT_SECONDS)
        yield connection
    except OperationalError as error:
        raise NotSent("The broker does not answer.") from error
    finally:
        connection.release()
