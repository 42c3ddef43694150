"""The schedule of all jobs as Celery beat's static configuration: no database is needed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from celery.schedules import crontab
from celery.schedules import schedule as interval

from async_cache.exceptions import ConfigurationError
from async_cache.schedules.conf import get_schedules_settings
from async_cache.schedules.plans import Plan, all_plans, fields_of
from async_cache.schedules.tasks import TASK_NAME
from async_cache.schedules.ticking import period

__all__ = ["as_module", "beat_schedule", "entry_name", "options_of"]

PREFIX: Final = "async_cache: "
"""How the names of entries begin."""

LONGEST_WAIT: Final = 3600.0
"""Seconds for which a message of a crontab's tick may wait for a worker."""

_HEAD: Final = '''"""Entries of app.conf.beat_schedule, by `manage.py async_cache schedule`."""

from celery.schedules import crontab

BEAT_SCHEDULE = {
'''


def beat_schedule() -> dict[str, dict[str, Any]]:
    """Return the entries of ``app.conf.beat_schedule`` that keep the jobs warm.

    Raises:
        ConfigurationError: A job declares a schedule that cannot be.
    """
    return {
        entry_name(plan): {
            "task": TASK_NAME,
            "schedule": plan.schedule,
            "args": (plan.job,),
            "options": options_of(plan),
        }
        for plan in all_plans()
    }


def entry_name(plan: Plan) -> str:
    """Return the name of a job's entry."""
    return f"{PREFIX}{plan.job}"


def options_of(plan: Plan) -> dict[str, Any]:
    """Return how the messages of the ticks are sent; one that waits for the next is dropped."""
    options: dict[str, Any] = {"expires": _expiry(plan)}
    queue = get_schedules_settings().queue
    return options if queue is None else {**options, "queue": queue}


def _expiry(plan: Plan) -> float:
    # A crontab's ticks are not evenly spaced; an hour is long for a tick and no waste.
    return max(1.0, period(plan.schedule)) if isinstance(plan.schedule, interval) else LONGEST_WAIT


def as_module(found: Iterable[Plan]) -> str:
    """Return the text of a Python module that holds the entries; the same for the same plans.

    Raises:
        ConfigurationError: A schedule cannot be written as text.
    """
    lines = [_HEAD]
    for plan in found:
        options = options_of(plan)
        lines.append(
            f"    {entry_name(plan)!r}: {{\n"
            f"        'task': {TASK_NAME!r},\n"
            f"        'schedule': {_schedule_text(plan)},\n"
            f"        'args': ({plan.job!r},),\n"
            f"        'options': {options!r},\n"
            "    },\n"
        )
    return "".join([*lines, "}\n"])


def _schedule_text(plan: Plan) -> str:
    schedule = plan.schedule
    if isinstance(schedule, crontab):
        names = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
        given = zip(names, fields_of(schedule), strict=True)
        return f"crontab({', '.join(f'{name}={text!r}' for name, text in given)})"
    if isinstance(schedule, interval):
        return f"{schedule.seconds!r}"
    raise ConfigurationError(
        f"{plan.job}: a {type(schedule).__qualname__} cannot be written as text. Use "
        "app.conf.beat_schedule = async_cache.schedules.beat_schedule() in your celery.py."
    )
