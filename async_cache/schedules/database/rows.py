"""The schedules of all jobs as rows for beat."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from celery.schedules import BaseSchedule, crontab
from celery.schedules import schedule as interval
from django.core.exceptions import ValidationError
from django.db import router, transaction

from async_cache.exceptions import ConfigurationError
from async_cache.schedules.database.models import CrontabSchedule, IntervalSchedule, PeriodicTask
from async_cache.schedules.database.validation import load_arguments
from async_cache.schedules.plans import Plan
from async_cache.schedules.static import PREFIX, entry_name, options_of
from async_cache.schedules.tasks import TASK_NAME

__all__ = ["Change", "find_schedule", "list_ticks", "write"]

WRITTEN: Final = "Written by `manage.py async_cache schedule`."
ORPHANED: Final = f"{WRITTEN} Disabled by it: the job has no schedule any more."


class Change(NamedTuple):
    """What happens to a row.

    Attributes:
        what: ``"created"``, ``"updated"`` or ``"disabled"``.
        name: The row's name.
        detail: The schedule, in words.
    """

    what: str
    name: str
    detail: str


def find_schedule(entry: str) -> BaseSchedule | None:
    """Return the schedule of the row by which a tick was sent; None when there is none."""
    found = PeriodicTask.objects.filter(name=entry, task=TASK_NAME)
    row = found.select_related("interval", "crontab", "solar", "clocked").first()
    schedule: BaseSchedule | None = None if row is None else row.schedule
    return schedule


def list_ticks() -> Iterator[tuple[list[Any], dict[str, Any]]]:
    """Yield the arguments of the ticks of all rows."""
    for row in PeriodicTask.objects.filter(task=TASK_NAME):
        with suppress(ValidationError):  # written past the validation; beat cannot send it either
            yield load_arguments(row)


def write(plans: Sequence[Plan], *, dry_run: bool = False) -> list[Change]:
    """Make the rows say what the jobs declare; rows made by hand are left alone.

    Whether a row is enabled is up to who operates it, as long as its job has a schedule.

    Args:
        plans: Those of all jobs; their calls have been looked at.
        dry_run: Only return what would change.

    Raises:
        ConfigurationError: A schedule cannot be a row, or a row made by hand has a job's name.
        ValidationError: A row cannot be.
    """
    with transaction.atomic(using=router.db_for_write(PeriodicTask)):
        known = {row.name: row for row in PeriodicTask.objects.filter(name__startswith=PREFIX)}
        # All of them before anything is written.
        prepared = [_prepared(plan, known.get(entry_name(plan))) for plan in plans]
        return [*_update(prepared, dry_run), *_disable(known, prepared, dry_run)]


class _Prepared(NamedTuple):
    plan: Plan
    row: Any
    kind: str
    when: Any
    wanted: dict[str, Any]


def _prepared(plan: Plan, row: Any) -> _Prepared:
    name = entry_name(plan)
    if row is None:
        row = PeriodicTask(name=name, description=WRITTEN)
    elif row.task != TASK_NAME or not row.description.startswith(WRITTEN):
        raise ConfigurationError(
            f"There is a periodic task {name!r} that this command has not written. Rename it."
        )
    kind, when = _when(plan)
    options = options_of(plan)
    wanted = {
        "task": TASK_NAME,
        "args": json.dumps([plan.job]),
        "kwargs": "{}",
        "queue": options.get("queue"),
        "expire_seconds": int(options["expires"]),
        "description": WRITTEN,
    }
    if row.description == ORPHANED:
        wanted["enabled"] = True
    return _Prepared(plan, row, kind, when, wanted)


def _when(plan: Plan) -> tuple[str, Any]:
    schedule = plan.schedule
    if isinstance(schedule, crontab):
        return "crontab", CrontabSchedule.from_schedule(schedule)
    if isinstance(schedule, interval):
        return "interval", IntervalSchedule.from_schedule(schedule)
    raise ConfigurationError(
        f"{plan.job}: a {type(schedule).__qualname__} cannot be written as a row. Use "
        "refresh_every, or a crontab."
    )


def _update(prepared: Sequence[_Prepared], dry_run: bool) -> Iterator[Change]:
    for plan, row, kind, when, wanted in prepared:
        kinds = ("interval", "crontab", "solar", "clocked")
        same = when.pk is not None and all(
            getattr(row, f"{one}_id") == (when.pk if one == kind else None) for one in kinds
        )
        differs = any(getattr(row, name) != value for name, value in wanted.items())
        if row.pk is not None and same and not differs:
            continue
        yield Change("created" if row.pk is None else "updated", row.name, plan.described)
        if dry_run:
            continue
        if when.pk is None:
            kept = _when(plan)[1]  # another plan may have written it meanwhile
            when = kept if kept.pk is not None else when
            when.save()
        for one in kinds:
            setattr(row, one, when if one == kind else None)
        for name, value in wanted.items():
            setattr(row, name, value)
        row.save()


def _disable(
    known: dict[str, Any], prepared: Sequence[_Prepared], dry_run: bool
) -> Iterator[Change]:
    for name in sorted(known.keys() - {one.row.name for one in prepared}):
        row = known[name]
        if not row.enabled or not row.description.startswith(WRITTEN):
            continue
        yield Change("disabled", name, "no schedule any more")
        if not dry_run:
            row.enabled = False
            row.description = ORPHANED
            row.save()
