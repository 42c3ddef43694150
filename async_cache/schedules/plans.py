"""What jobs declare: when they are refreshed by the clock, and which of their calls.

::

    class Rates(AsyncCacheJob):
        refresh_every = 300                       # or refresh_schedule = crontab(minute=0)
        refresh_calls = [("EUR",), ("USD",)]      # or a method that yields them

        def fetch(self, base): ...
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Final, NamedTuple

from celery.schedules import BaseSchedule, ParseException, crontab
from celery.schedules import schedule as interval

from async_cache.exceptions import AsyncCacheError, ConfigurationError
from async_cache.jobs.registry import all_jobs, get_job

__all__ = ["Plan", "all_plans", "make_plan", "parse_crontab", "plan_of"]

_FIELDS: Final = 5


class Plan(NamedTuple):
    """When a job is refreshed by the clock.

    Attributes:
        job: Its name.
        schedule: When: an interval, a crontab, or another schedule of Celery.
        instance: The job, ready for use.
    """

    job: str
    schedule: BaseSchedule
    instance: Any

    def calls(self) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
        """Yield the arguments of each call that is kept warm.

        Raises:
            ConfigurationError: One does not fit ``fetch``.
        """
        for one in _declared(self.instance):
            try:
                args, kwargs = self.instance._call(one)
                self.instance._runtime.signature.bind(args, kwargs)
            except TypeError as error:
                raise ConfigurationError(
                    f"{self.job}.refresh_calls: a call does not fit fetch: {error} Each is a tuple "
                    "of arguments, a dict of keywords or call(...)."
                ) from error
            yield args, dict(kwargs)

    @property
    def described(self) -> str:
        """The schedule, in words."""
        if isinstance(self.schedule, crontab):
            return " ".join(str(field) for field in _fields(self.schedule))
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
    return found


def all_plans() -> list[Plan]:
    """Return the plan of each job that has one, by name.

    Raises:
        ConfigurationError: A job declares a schedule that cannot be.
    """
    found = (plan_of(name) for name in sorted(all_jobs()))
    return [plan for plan in found if plan is not None]


def plan_of(name: str) -> Plan | None:
    """Return the plan of a job; None when it has no schedule.

    Raises:
        UnknownJob: There is no such job.
        ConfigurationError: Its schedule cannot be.
    """
    job: Any = get_job(name)
    declares = getattr(job, "refresh_schedule", None) is not None
    try:
        instance = job()
        every = _every(instance)
    except AsyncCacheError:
        raise
    except Exception as error:
        if not declares and getattr(job, "refresh_every", None) is None:
            return None
        raise ConfigurationError(
            f"{name} has a schedule, and cannot be made without arguments: "
            f"{type(error).__qualname__}. Give its constructor defaults, or subclass it."
        ) from error
    if every is None and not declares:
        return None
    return make_plan(instance, every, getattr(job, "refresh_schedule", None))


def _every(instance: Any) -> float | None:
    runtime = instance._runtime
    every: float | None = runtime.refresh_every
    return every


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


def _fields(one: crontab) -> tuple[Any, ...]:
    """Return the five fields of a crontab, as they were given, in the order of crontab(5)."""
    reduced: Any = one.__reduce__()
    minute, hour, weekday, day, month = reduced[1]
    return minute, hour, day, month, weekday
