"""What a row must be before it is written."""

from __future__ import annotations

import inspect
import json
from typing import Any, Final

from celery.schedules import ParseException
from django.core.exceptions import ValidationError

from async_cache.exceptions import AsyncCacheError
from async_cache.schedules.tasks import TASK_NAME, plan_of_tick, run_tick

__all__ = ["check_crontab", "check_tick", "check_when", "load_arguments", "load_headers"]

KINDS: Final = ("interval", "crontab", "solar", "clocked")


def check_when(row: Any) -> None:
    """Refuse a periodic task that has no schedule, or more than one, or a bad one.

    Raises:
        ValidationError: It has none, or two, or one that cannot be.
    """
    given = {kind: getattr(row, kind) for kind in KINDS}
    chosen = [kind for kind in KINDS if given[kind] is not None]
    if not chosen:
        raise ValidationError(
            f"{row.name}: there is no schedule. Set one of interval, crontab, solar or clocked."
        )
    if len(chosen) > 1:
        raise ValidationError(
            f"{row.name}: there are {len(chosen)} schedules, {' and '.join(chosen)}. Keep one."
        )
    if not row.enabled:
        return  # what cannot run must be possible to stop
    if given["interval"] is not None:
        given["interval"].clean_fields()
    if given["crontab"] is not None:
        check_crontab(given["crontab"])


def check_crontab(row: Any) -> None:
    """Refuse a crontab that beat could not read.

    Raises:
        ValidationError: A field is wrong.
    """
    row.clean_fields()
    try:
        _ = row.schedule
    except (ParseException, ValueError) as error:
        raise ValidationError(f"{row}: this is no crontab: {error}") from error


def load_arguments(row: Any) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments and keywords of a periodic task.

    Raises:
        ValidationError: They are not JSON, or not a list and an object.
    """
    args = _load(row, "args", "[]")
    kwargs = _load(row, "kwargs", "{}")
    if not isinstance(args, list):
        raise ValidationError({"args": f"{row.args!r} is not a JSON list."})
    if not isinstance(kwargs, dict):
        raise ValidationError({"kwargs": f"{row.kwargs!r} is not a JSON object."})
    return args, kwargs


def load_headers(row: Any) -> dict[str, Any]:
    """Return the headers that the messages of a periodic task have.

    Raises:
        ValidationError: They are not a JSON object.
    """
    headers = _load(row, "headers", "{}")
    if not isinstance(headers, dict):
        raise ValidationError({"headers": f"{row.headers!r} is not a JSON object."})
    return {**headers, "periodic_task_name": row.name}


def _load(row: Any, name: str, default: str) -> Any:
    text = getattr(row, name) or default
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValidationError({name: f"{text!r} is not JSON: {error}."}) from error


def check_tick(row: Any, args: list[Any], kwargs: dict[str, Any]) -> None:
    """Refuse a tick whose job is unknown, or whose calls do not fit its ``fetch``.

    Raises:
        ValidationError: It could not run.
    """
    if str(row.task) != TASK_NAME or not row.enabled:
        return
    try:
        given = inspect.signature(run_tick.run).bind(*args, **kwargs).arguments
        job = given.get("job")
        if not isinstance(job, str):
            raise TypeError("the first argument is the name of a job")
        plan = plan_of_tick(job, given.get("calls"), _schedule(row))
        for _ in plan.calls():
            pass
    except (AsyncCacheError, TypeError) as error:
        raise ValidationError({"args": f"{row.name}: {error}"}) from error


def _schedule(row: Any) -> Any:
    chosen = next(filter(None, (getattr(row, kind) for kind in KINDS)))
    return chosen.schedule
