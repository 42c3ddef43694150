"""The Celery task that refreshes."""

from __future__ import annotations

from typing import Final

from celery import shared_task
from celery.exceptions import SoftTimeLimitExceeded

from async_cache import fetching, worker

__all__ = ["TASK_NAME", "refresh"]

TASK_NAME: Final = "async_cache.refresh"

fetching.timeout_errors.append(SoftTimeLimitExceeded)


# Acknowledged before it runs: a refresh that is lost is asked for again by the next read, while one
# that kills its worker would, delivered again, kill the next worker too. Nothing is retried: the
# refresh records its failure, and reads after the back-off ask again.
@shared_task(
    name=TASK_NAME,
    ignore_result=True,
    acks_late=False,
    max_retries=0,
    serializer="json",
)
def refresh(sealed: str) -> dict[str, int]:
    """Refresh what a sealed message asks for.

    Args:
        sealed: A message of `async_cache.messages`.

    Returns:
        How many of its calls came to which end; never a value.
    """
    try:
        return worker.run_sealed(sealed)
    except SoftTimeLimitExceeded:
        # It came outside of the fetch, which would have recorded it: between two steps of ours.
        return {"timed out": 1}
