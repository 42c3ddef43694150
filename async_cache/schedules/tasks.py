"""The Celery task that Celery beat sends at each tick."""

from __future__ import annotations

from typing import Final

from celery import shared_task

from async_cache.schedules.plans import plan_of
from async_cache.schedules.ticking import parts_of, spread_of, tick

__all__ = ["TASK_NAME", "run_tick"]

TASK_NAME: Final = "async_cache.tick"


@shared_task(name=TASK_NAME, ignore_result=True, max_retries=0, serializer="json")
def run_tick(job: str, part: int | None = None, parts: int = 1) -> dict[str, int]:
    """Ask for the refreshes that are due of a job's calls.

    Many calls are split: the first message of a tick sends one for each part, some time apart.

    Args:
        job: The job's name.
        part: Number of the part; None for the tick itself.
        parts: How many there are.

    Returns:
        How many refreshes were asked for, and how many calls were fresh; never a value.
    """
    if part is None:
        plan = plan_of(job)
        parts = 1 if plan is None else parts_of(sum(1 for _ in plan.calls()))
        if plan is not None and parts > 1:
            apart = spread_of(plan) / parts
            for number in range(1, parts):
                run_tick.apply_async((job, number, parts), countdown=number * apart)
    return tick(job, part or 0, parts).as_dict()
