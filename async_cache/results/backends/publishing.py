"""Publish the body of a chord, within a few seconds or not at all."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any, Final

from celery.canvas import _chain, chord
from kombu.exceptions import OperationalError

from async_cache import clock
from async_cache.dispatchers.broker import Link

__all__ = ["publish_body"]

logger = logging.getLogger("async_cache.results")

STEP_SECONDS: Final = 1.0
"""The longest wait of one step of an exchange with the broker."""
TRY_SECONDS: Final = 3.0
"""How long it is tried again. On SQLite nobody else can write meanwhile."""
PAUSE_SECONDS: Final = 0.2


def publish_body(app: Any, body: Any, values: Sequence[Any]) -> None:
    """Publish a chord's body with the values of its header.

    A connection of its own bounds each step, since Celery's may wait for minutes for a broker that
    is silent. Chains and chords publish over Celery's in any case, as its settings say.

    Raises:
        Exception: What the broker, or the body, failed with.
    """
    if app.conf.task_always_eager:
        body.delay(values)
    elif isinstance(body, _chain | chord):
        publish = getattr(app.amqp, "_retry_publish", None)
        if publish is None:
            body.delay(values)
        else:
            publish(body.delay, values)
    else:
        _publish_bounded(app, body, values)


def _publish_bounded(app: Any, body: Any, values: Sequence[Any]) -> None:
    end = clock.monotonic() + TRY_SECONDS
    while True:
        link = Link(app, STEP_SECONDS)
        try:
            link.open()
            body.apply_async((values,), producer=link.producer, retry=False, **link.confirms())
            return
        except (OperationalError, OSError, *link.connection.connection_errors) as error:
            if clock.monotonic() >= end:
                raise
            logger.warning("The body of a chord is not published yet: %r", error)
        finally:
            link.close()
        time.sleep(PAUSE_SECONDS)
