"""Run a finished task again, or end a running one, through the project's Celery app."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Final

from celery import current_app
from kombu.exceptions import EncodeError

from async_cache.control import NotSent, connected, control
from async_cache.results.models import TaskResult

__all__ = ["send_again", "terminate"]

# What stands in a text for what was cut or hidden.
_GAPS: Final = ("...", "…", "***", "redacted", "<")


def send_again(row: TaskResult, connection: Any = None) -> str:
    """Send a task once more, as a new one, with the arguments that its row keeps.

    Args:
        row: The task.
        connection: From `connected`, when several are sent.

    Returns:
        The id of the new task.

    Raises:
        NotSent: Its arguments are not stored, not complete, or redacted, or no longer what it
            takes; or it is unknown here; or the broker does not answer.
    """
    if row.task_name and row.task_name not in current_app.tasks:
        # A web process may not have imported the tasks that a worker knows.
        current_app.loader.import_default_modules()
    task: Any = current_app.tasks.get(row.task_name) if row.task_name else None
    if task is None:
        raise NotSent(
            f"Task {row.task_id}: {row.task_name!r} is not known to this process. Import its "
            "module at the start, as in the ready() of an app."
        )
    if getattr(task, "redact", None) is not None:
        raise NotSent(f"Task {row.task_id}: the arguments of {row.task_name} are redacted.")
    args, kwargs = _read(row, row.task_args, tuple | list), _read(row, row.task_kwargs, dict)
    with connected() if connection is None else nullcontext(connection) as broker:
        try:
            sent = task.apply_async(args, kwargs, connection=broker, retry=False)
        except (TypeError, EncodeError) as error:
            raise NotSent(
                f"Task {row.task_id}: {row.task_name} does not take these arguments now: {error}"
            ) from error
    return str(sent.id)


def terminate(task_ids: Sequence[str]) -> None:
    """Revoke tasks and end the processes that run them.

    Raises:
        NotSent: The broker does not answer.
    """
    with connected() as connection:
        control().revoke(list(task_ids), terminate=True, connection=connection)


def _read(row: TaskResult, text: str | None, kind: Any) -> Any:
    if text is None:
        raise NotSent(
            f"Task {row.task_id}: its arguments are not stored. "
            "Set result_extended for the next ones."
        )
    if not any(gap in text for gap in _GAPS):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = None
        if isinstance(value, kind):
            return value
    raise NotSent(f"Task {row.task_id}: its arguments are not stored completely.")
