"""Reach workers through the project's Celery app, in bounded time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from celery import current_app
from celery.app.control import Control
from kombu import Producer
from kombu.pidbox import Mailbox

from async_cache.dispatchers.broker import Link
from async_cache.exceptions import AsyncCacheError

__all__ = ["NotSent", "connected", "control"]

CONNECT_SECONDS: Final = 3.0
"""The longest wait of one step on the way to the broker."""


class _Once(Producer):
    def publish(self, *args: Any, **options: Any) -> Any:
        return super().publish(*args, **{**options, "retry": False})


class _Mailbox(Mailbox):
    """Sends once, by the connection that it is given; one of the app's pool may wait for ever."""

    @contextmanager
    def producer_or_acquire(self, producer: Any = None, channel: Any = None) -> Iterator[Any]:
        yield _Once(channel, auto_declare=False)


class _Control(Control):
    Mailbox = _Mailbox


def control() -> Any:
    """Return what tells workers of the project's Celery app by a connection of `connected`."""
    return _Control(current_app)


class NotSent(AsyncCacheError):
    """Nothing was sent; the message says why."""


@contextmanager
def connected() -> Iterator[Any]:
    """Connect to the broker.

    Raises:
        NotSent: It does not answer.
    """
    link = Link(current_app, CONNECT_SECONDS)
    failures, refusals = link.errors()
    try:
        link.open()
        yield link.connection
    except (*failures, *refusals) as error:
        raise NotSent("The broker does not answer.") from error
    finally:
        link.close()
