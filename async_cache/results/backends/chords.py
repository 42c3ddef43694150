"""Call the body of a chord once its header has ended."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from celery import maybe_signature, states
from celery.exceptions import ChordError
from celery.result import GroupResult, allow_join_result, result_from_tuple

__all__ = ["call_body"]

logger = logging.getLogger("async_cache.results")


def call_body(backend: Any, group_id: str, parts: Sequence[Any], request: Any) -> None:
    """Call the body of a chord with the results of its header, or fail it with their error.

    Args:
        backend: Where the results of the header are.
        group_id: Id of the header.
        parts: Result tuples of the header, in order.
        request: Of the part that ended last; it carries the body.
    """
    app = backend.app
    body: Any = maybe_signature(request.chord, app=app)
    results = [result_from_tuple(part, app) for part in parts]
    header = GroupResult(group_id, results, app=app)
    try:
        with allow_join_result():
            values = header.join_native(timeout=app.conf.result_chord_join_timeout, propagate=True)
    except Exception as error:  # noqa: BLE001 - the error of whichever part; the body fails with it
        failed = (result for result in results if result.state in states.PROPAGATE_STATES)
        culprit = next(failed, None)
        reason = repr(error) if culprit is None else f"Dependency {culprit.id} raised {error!r}"
        logger.warning("The chord %s fails: one of its parts did.", group_id)
        failure = ChordError(reason)
        failure.__cause__ = error
        backend.chord_error_from_stack(body, failure)
        return
    publish = getattr(app.amqp, "_retry_publish", None)
    try:
        if publish is None:
            body.delay(values)
        else:
            publish(body.delay, values)
    except Exception as error:
        logger.exception("The body of the chord %s could not be published.", group_id)
        failure = ChordError(f"Callback error: {error!r}")
        failure.__cause__ = error
        backend.chord_error_from_stack(body, failure)
