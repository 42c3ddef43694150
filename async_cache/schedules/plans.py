"""What jobs declare: when they are refreshed by the clock, and which of their calls.

::

    class Rates(AsyncCacheJob):
        refresh_every = 300                       # or refresh_schedule = crontab(minute=0)
        refresh_calls = [("EUR",), ("USD",)]      # or a method that yields them

        def fetch(self, base): ...
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any, Final, NamedTuple

from celery.schedules import BaseSchedule, ParseException, crontab
from celery.schedules import schedule as interval

from async_cache.exceptions import AsyncCacheError, ConfigurationError
from async_cache.jobs.registry import all_jobs, get_job
from async_cache.resolution import configured

__all__ = ["Plan", "all_plans", "fields_of", "make_plan", "parse_crontab", "plan_of"]

_FIELDS: Final = 5


class Plan(NamedTuple):
    """When a job is refreshed by the clock.

    Attributes:
        job: The name of its class.
        schedule: When: an interval, a crontab, or another schedule of Celery.
        instance: The job, ready for use.
        given: The calls to keep warm, where the job's own are not meant.
    """

    job: str
    schedule: BaseSchedule
    instance: Any
    given: tuple[Any, ...] | None = None

    def calls(self) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
        """Yield the arguments of each call that is kept warm.

        Raises:
            ConfigurationError: One does not fit ``fetch``.
        """
        own = self.given is None
        for one in _declared(self.instance) if own else self.given or ():
            try:
                args, kwargs = self.instance._call(one)
                self.instance._runtime.signature.bind(args, kwargs)
            except TypeError as error:
                where = f"{self.job}.refresh_calls" if own else f"calls of {self.job}"
                raise ConfigurationError(
                    f"{where}: a call does not fit fetch: {str(error).rstrip('.')}. Each is a "
                    "tuple of arguments, a dict of keywords or call(...)."
                ) from error
            yield args, dict(kwargs)

    @property
    def described(self) -> str:
        """The schedule, in words."""
        if isinstance(self.schedule, crontab):
            return " ".join(fields_of(self.schedule))
        if isinstance(self.schedule, interval):
            return f"every {self.schedule.seconds:g} s"
        return repr(self.schedule)


def _declared(job: Any) -> Any:
    declared = getattr(job, "refresh_calls", None)
    if declared is None:
        try:
            job._runtime.signature.bind((), {})
        except TypeError:
            raise ConfigurationError(
                f"{job.job_name} has a schedule, and its fetch takes arguments: name the calls to "
                'keep warm, such as refresh_calls = [("EUR",)], or a method that yields them.'
            ) from None
        return [()]
    found = declared() if callable(declared) else declared
    if isinstance(found, str | bytes | dict) or not hasattr(found, "__iter__"):
        raise ConfigurationError(
            f"{job.job_name}.refresh_calls is a {type(found).__qualname__}. Write a list of calls, "
            'such as [("EUR",)], or a method that yields them.'
        )
    if found is declared and iter(found) is found:
        raise ConfigurationError(
            f"{job.job_name}.refresh_calls is a {type(found).__qualname__}, which is used up by "
            "the first tick. Write a list of calls, or a method that yields them."
        )
    return found


def all_plans() -> list[Plan]:
    """Return the plan of each job that has one, by name.

    Raises:
        ConfigurationError: A job declares a schedule that cannot be.
    """
    found = (plan_of(name) for name in sorted(all_jobs()))
    return [plan for plan in found if plan is not None]


def plan_of(
    name: str, schedule: BaseSchedule | None = None, calls: Iterable[Any] | None = None
) -> Plan | None:
    """Return the plan of a job; None when it has no schedule.

    Args:
        name: The job's name.
        schedule: When, in place of what the job declares, as of a row of the database.
        calls: Which calls, in place of those that it declares.

    Raises:
        UnknownJob: There is no such job.
        ConfigurationError: Its schedule cannot be.
    """
    job: Any = get_job(name)
    declared = getattr(job, "refresh_schedule", None)
    wanted = schedule is not None or declared is not None
    wanted = wanted or getattr(job, "refresh_every", None) is not None
    wanted = wanted or configured(name).get("refresh_every") is not None
    try:
        instance = job()
        every = instance._runtime.refresh_every
    except Exception as error:
        if not wanted:
            return None  # one for a model, or for arguments that others give
        if isinstance(error, AsyncCacheError):
            raise
        raise ConfigurationError(
            f"{name} has a schedule, and cannot be made without arguments: "
            f"{type(error).__qualname__}. Give its constructor defaults, or subclass it."
        ) from error
    given = None if calls is None else tuple(calls)
    if schedule is not None:
        return Plan(name, schedule, instance, given)
    if every is None and declared is None:
        return None
    # By this name a worker finds it; that of a job of a model goes on with the model's label.
    return make_plan(instance, every, declared)._replace(job=name, given=given)


def make_plan(instance: Any, every: float | None, declared: Any) -> Plan:
    """Return a plan from what a job declares.

    Args:
        instance: The job.
        every: Seconds between two refreshes.
        declared: A schedule of Celery, or the five fields of a crontab.

    Raises:
        ConfigurationError: There is no schedule, there are two, or it cannot be.
    """
    name = instance.job_name
    if every is not None and declared is not None:
        raise ConfigurationError(
            f"{name} has two schedules, refresh_every and refresh_schedule. Remove one."
        )
    if every is not None:
        return Plan(name, interval(timedelta(seconds=every)), instance)
    if isinstance(declared, str):
        declared = parse_crontab(declared, f"{name}.refresh_schedule")
    if not isinstance(declared, BaseSchedule):
        raise ConfigurationError(
            f"{name}.refresh_schedule is a {type(declared).__qualname__}. Write crontab(minute=0) "
            'of celery.schedules, or its five fields: "0 * * * *". For an interval there is '
            "refresh_every."
        )
    return Plan(name, declared, instance)


def parse_crontab(text: str, where: str) -> crontab:
    """Return the crontab of five fields: minute, hour, day of month, month, day of week.

    Raises:
        ConfigurationError: It is none.
    """
    fields = text.split()
    if len(fields) != _FIELDS:
        raise ConfigurationError(
            f"{where}: {text!r} has {len(fields)} fields. A crontab has five: minute, hour, day of "
            'month, month, day of week, as in "*/5 * * * *".'
        )
    minute, hour, day, month, weekday = fields
    try:
        return crontab(
            minute=minute, hour=hour, day_of_month=day, month_of_year=month, day_of_week=weekday
        )
    except (ParseException, ValueError) as error:
        raise ConfigurationError(f"{where}: {text!r} is no crontab: {error}") from error


def fields_of(one: crontab) -> tuple[str, str, str, str, str]:
    """Return the five fields of a crontab as text, in the order of crontab(5)."""
    reduced: Any = one.__reduce__()
    minute, hour, weekday, day, month = map(_text, reduced[1][:_FIELDS])
    return minute, hour, day, month, weekday


def _text(field: Any) -> str:
    """Return a field as it was given, or the numbers of a list or a set of them."""
    if isinstance(field, str | int):
        return str(field)
    return ",".join(str(number) for number in sorted(field))
