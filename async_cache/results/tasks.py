"""The Celery task that makes the calls of `async_task`."""

from __future__ import annotations

import math
from typing import Any, Final

from celery import shared_task

from async_cache.results import running

__all__ = ["TASK_NAME", "publish", "run"]

TASK_NAME: Final = "async_cache.run"

KILL_SECONDS: Final = 10.0
"""Between the soft time limit, which is the call's ``timeout``, and the hard one."""

_RETRY: Final = {"max_retries": 2, "interval_start": 0.1, "interval_step": 0.2, "interval_max": 0.5}


@shared_task(name=TASK_NAME, bind=True, ignore_result=True, max_retries=0, serializer="json")
def run(self: Any, sealed: str) -> str:
    """Make the call of a sealed message.

    Args:
        self: The task.
        sealed: A message of `async_cache.results.messages`.

    Returns:
        How it ended; never a value.
    """
    return running.run_sealed(sealed, self.request.hostname or "")


def publish(sealed: str, task_id: str, path: str, timeout: float | None) -> None:
    """Send a sealed message to the workers.

    Args:
        sealed: The message.
        task_id: The task's id.
        path: What it calls, for the logs of the workers.
        timeout: Seconds that the call may take.
    """
    options: dict[str, Any] = {"argsrepr": f"({path})", "kwargsrepr": "{}"}
    if timeout is not None:
        options["soft_time_limit"] = math.ceil(timeout)
        options["time_limit"] = math.ceil(timeout + KILL_SECONDS)
    run.apply_async(
        args=(sealed,),
        task_id=task_id,
        ignore_result=True,
        add_to_parent=False,
        retry_policy=_RETRY,
        **options,
    )
