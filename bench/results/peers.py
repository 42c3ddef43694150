"""The three result stores as a worker uses them: outcomes, and Celery apps with their backends."""

from __future__ import annotations

import math
import uuid
from datetime import UTC, datetime
from typing import Any, Final

from celery import Celery
from celery.app.task import Context

from async_cache import clock
from async_cache.results import Record
from async_cache.results.codec import encode_value

__all__ = ["OURS", "PEER", "celery_app", "label", "new_id", "outcome", "package", "request"]

OURS: Final = "async-cache-db"
PEER: Final = "django-db"
"""The backend of django-celery-results, by its entry point."""

FUNCTION: Final = "math.modf"


def new_id() -> str:
    """Return the id of a new task."""
    return uuid.uuid4().hex


def label() -> str:
    """Return the label of a new group."""
    return f"orders-{uuid.uuid4().hex[:8]}"


def outcome(number: int, group: str = "") -> Record:
    """Return what `async_cache.results` keeps of one call that a worker made."""
    task_id, moment = new_id(), clock.now()
    encoded = encode_value(math.modf(number / 2), task_id)
    return Record(
        id=task_id,
        name=FUNCTION,
        state="SUCCESS",
        created=moment,
        queued=moment,
        started=moment,
        finished=moment,
        worker="worker@bench",
        group=group,
        sequence=number if group else None,
        value=encoded.value,
        content_type=encoded.content_type,
        content_encoding=encoded.content_encoding,
    )


def package(number: int, group: str | None = None, *, cached: bool = True) -> dict[str, Any]:
    """Return what django-q2 keeps of the same call, as its workers hand it to its monitor."""
    moment, task_id = datetime.now(UTC), new_id()
    return {
        "id": task_id,
        "name": f"bench-{task_id[:8]}",
        "func": FUNCTION,
        "args": (number / 2,),
        "kwargs": {},
        "group": group,
        "cached": cached,
        "started": moment,
        "stopped": moment,
        "success": True,
        "result": math.modf(number / 2),
    }


def celery_app(backend: str, **options: Any) -> Celery:
    """Return an app with a result backend; its tasks go nowhere.

    Args:
        backend: What ``result_backend`` takes.
        **options: Further settings.
    """
    app = Celery(f"bench-{backend}", set_as_current=False)
    app.conf.update(broker_url="memory://", result_backend=backend, result_extended=True, **options)
    return app


def request(task_id: str) -> Context:
    """Return the request of a task as a worker's has it."""
    return Context(
        id=task_id,
        task="shop.tasks.add",
        args=[7, 8],
        kwargs={"name": "bob"},
        argsrepr="(7, 8)",
        kwargsrepr="{'name': 'bob'}",
        hostname="worker@bench",
        retries=0,
        children=[],
    )
