"""The Celery task that Celery beat sends at each tick."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from celery import current_app, shared_task
from celery.schedules import schedule as interval

from async_cache.exceptions import ConfigurationError
from async_cache.jobs.registry import all_jobs
from async_cache.schedules.conf import get_schedules_settings
from async_cache.schedules.plans import Plan, plan_of
from async_cache.schedules.sources import find_schedule, kept_ticks
from async_cache.schedules.ticking import MAX_PARTS, parts_of, period, spread_of, tick
from async_cache.signals import announce, refresh_dropped

__all__ = ["TASK_NAME", "plan_of_tick", "run_tick"]

TASK_NAME: Final = "async_cache.tick"

LONGEST: Final = 10 * 366 * 86_400.0
"""Seconds between two ticks, at most."""


@shared_task(name=TASK_NAME, bind=True, ignore_result=True, max_retries=0, serializer="json")
def run_tick(
    self: Any,
    job: str,
    calls: Sequence[Any] | None = None,
    every: float | None = None,
    part: int | None = None,
    parts: int = 1,
) -> dict[str, int]:
    """Ask for the refreshes that are due of a job's calls.

    Many calls are split: the first message of a tick sends one for each part, some time apart.

    The message is beat's and not sealed, so it is not believed: a job that is not registered here,
    and calls that are not the job's own, must stand in ``beat_schedule`` or in a row of the
    database; else the message is dropped before anything is imported for it.

    Args:
        self: The task.
        job: The job's name.
        calls: Lists of arguments and objects of keywords, in place of the job's own calls.
        every: Seconds to the next tick, of a part.
        part: Number of the part; None for the tick itself.
        parts: How many there are.

    Returns:
        How many refreshes were asked for, and how many calls were fresh; never a value.
    """
    if not self.request.called_directly and not _is_ours(job, calls, every, part, parts):
        announce(refresh_dropped, job="", key="", reason="unknown")
        return {"dropped": 1}
    entry = getattr(self.request, "periodic_task_name", None)
    plan = plan_of_tick(job, calls, None if every is not None else find_schedule(entry), every)
    seconds = period(plan.schedule) if every is None else every
    if part is None:
        parts = parts_of(sum(1 for _ in plan.calls()))
        _send_parts(job, calls, seconds, parts)
    return tick(plan, seconds, part or 0, parts).as_dict()


def _is_ours(job: Any, calls: Any, every: Any, part: Any, parts: Any) -> bool:
    """Say whether a message of a tick asks for what the project has declared."""
    if type(job) is not str or type(parts) is not int or not 1 <= parts <= MAX_PARTS:
        return False
    if part is None:
        bounded = every is None
    else:
        bounded = type(part) is int and 0 <= part < parts and type(every) in (int, float)
        bounded = bounded and 0 < every < LONGEST
    if not bounded:
        return False
    if calls is None and job in all_jobs():
        return True
    wanted = _as_text(job, calls)
    return any(_as_text(*given) == wanted for given in _declared())


def _as_text(*given: Any) -> str:
    # Celery's JSON brings dates, decimals and UUIDs as objects.
    return json.dumps(given, default=repr)


def _declared() -> Iterator[list[Any]]:
    """Yield job and calls of each tick in ``beat_schedule`` and in the database."""
    entries: Any = (current_app.conf.beat_schedule or {}).values()
    settled = [
        (one.get("args") or (), one.get("kwargs") or {})
        for one in entries
        if isinstance(one, Mapping) and one.get("task") == TASK_NAME
    ]
    signature = inspect.signature(run_tick.run)
    for args, kwargs in [*settled, *kept_ticks()]:
        with suppress(TypeError):  # what does not fit the task is no tick
            given = signature.bind(*args, **kwargs).arguments
            yield [given["job"], given.get("calls")]


def plan_of_tick(
    job: str, calls: Sequence[Any] | None, schedule: Any = None, every: float | None = None
) -> Plan:
    """Return the plan of what a message, or a row of the database, names.

    Args:
        job: The job's name.
        calls: As JSON has them; None: the job's own.
        schedule: When; None: as the job declares.
        every: Seconds to the next tick, where they are known without a schedule.

    Raises:
        UnknownJob: There is no such job.
        ConfigurationError: It has no schedule, or one that cannot be; calls are not a list.
    """
    if calls is not None and not isinstance(calls, list | tuple):
        raise ConfigurationError(
            f"The calls of {job} are a {type(calls).__qualname__}. Write a list of lists of "
            'arguments, or of objects of keywords: [["EUR"], {"base": "USD"}].'
        )
    given = None if calls is None else [_as_call(one) for one in calls]
    if every is not None:
        schedule = interval(every)
    plan = plan_of(job, schedule, given)
    if plan is None:
        raise ConfigurationError(
            f"{job} has no schedule any more. Run `manage.py async_cache schedule` again."
        )
    return plan


def _as_call(one: Any) -> Any:
    return tuple(one) if isinstance(one, list) else one


def _send_parts(job: str, calls: Sequence[Any] | None, every: float, parts: int) -> None:
    queue = get_schedules_settings().queue
    options: dict[str, Any] = {} if queue is None else {"queue": queue}
    apart = spread_of(every) / parts
    for part in range(1, parts):
        run_tick.apply_async(
            (job, calls, every, part, parts),
            countdown=part * apart,
            expires=part * apart + max(1.0, every),
            **options,
        )
