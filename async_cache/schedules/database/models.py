"""Proxies of django-celery-beat's models: what djcelery's users know, validated when saved."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar, Final

from celery.schedules import crontab as celery_crontab
from django.core.exceptions import ValidationError
from django.db.models import F
from django_celery_beat import models as beat
from django_celery_beat.utils import now

from async_cache.schedules.database.attributes import TaskAttribute, task_named
from async_cache.schedules.database.querysets import QuerySet
from async_cache.schedules.database.validation import (
    check_crontab,
    check_tick,
    check_when,
    load_arguments,
    load_headers,
)
from async_cache.schedules.plans import fields_of

__all__ = [
    "CrontabSchedule",
    "IntervalSchedule",
    "PeriodicTask",
    "PeriodicTaskMeta",
    "PeriodicTasks",
]

_FIELDS: Final = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
_MICROSECOND: Final = timedelta(microseconds=1)


class IntervalSchedule(beat.IntervalSchedule):  # type: ignore[misc]
    """Every so many days, hours, minutes, seconds or microseconds."""

    NATURAL_KEY: ClassVar = ("every", "period")

    objects = QuerySet.as_manager()

    class Meta:
        """No table of its own."""

        proxy = True

    def natural_key(self) -> tuple[int, str]:
        """Return what names the schedule in a fixture."""
        return self.every, self.period

    @classmethod
    def from_schedule(cls, schedule: Any, period: str = beat.SECONDS) -> Any:
        """Return the row of an interval of Celery, unsaved when there is none yet.

        Args:
            schedule: The interval.
            period: What to count it in; microseconds where that does not come out even.

        Raises:
            ValidationError: It is shorter than a microsecond.
        """
        every, rest = divmod(schedule.run_every, timedelta(**{period: 1}))
        if rest or not every:
            every, period = schedule.run_every // _MICROSECOND, beat.MICROSECONDS
        found = cls(every=every, period=period)
        found.validate()
        return cls.objects.filter(every=every, period=period).order_by("pk").first() or found

    def validate(self) -> None:
        """Refuse an interval that cannot be.

        Raises:
            ValidationError: ``every`` is no positive whole number, or ``period`` is unknown.
        """
        if isinstance(self.every, float) and not self.every.is_integer():
            raise ValidationError({"every": f"{self.every} is no whole number."})
        self.clean_fields()

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Validate, write and tell beat."""
        self.validate()
        super().save(*args, **kwargs)


class CrontabSchedule(beat.CrontabSchedule):  # type: ignore[misc]
    """The minutes, hours, days, months and days of the week at which a task runs."""

    NATURAL_KEY: ClassVar = (*_FIELDS, "timezone")

    objects = QuerySet.as_manager()

    class Meta:
        """No table of its own."""

        proxy = True

    def natural_key(self) -> tuple[str, ...]:
        """Return what names the schedule in a fixture."""
        return tuple(str(getattr(self, name)) for name in self.NATURAL_KEY)

    @classmethod
    def from_schedule(cls, schedule: celery_crontab) -> Any:
        """Return the row of a crontab of Celery, unsaved when there is none yet."""
        given = dict(zip(_FIELDS, fields_of(schedule), strict=True))
        zone = schedule.tz
        return cls.objects.filter(**given, timezone=zone).order_by("pk").first() or cls(
            **given, timezone=zone
        )

    def validate(self) -> None:
        """Refuse a crontab that beat could not read.

        Raises:
            ValidationError: A field is wrong.
        """
        check_crontab(self)

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Validate, write and tell beat."""
        self.validate()
        super().save(*args, **kwargs)


class PeriodicTasks(beat.PeriodicTasks):  # type: ignore[misc]
    """When the periodic tasks last changed: beat looks at it, and reads them again."""

    NATURAL_KEY: ClassVar = ("ident",)

    objects = QuerySet.as_manager()

    class Meta:
        """No table of its own."""

        proxy = True

    def natural_key(self) -> tuple[int]:
        """Return what names the row in a fixture."""
        return (self.ident,)

    def validate(self) -> None:
        """Accept it: nothing of it can be wrong."""

    @classmethod
    def changed(cls, instance: Any = None, **kwargs: Any) -> None:
        """Tell beat that periodic tasks have changed.

        Args:
            instance: The one that has; beat's own notes of a run are no change.
            kwargs: What a signal passes besides.
        """
        if instance is None or not instance.no_changes:
            beat.PeriodicTasks.update_changed()


class PeriodicTask(beat.PeriodicTask):  # type: ignore[misc]
    """A task that beat sends by a schedule."""

    NATURAL_KEY: ClassVar = ("name",)

    objects = QuerySet.as_manager()

    class Meta:
        """No table of its own."""

        proxy = True

    def natural_key(self) -> tuple[str]:
        """Return what names the task in a fixture."""
        return (self.name,)

    def validate(self) -> None:
        """Refuse a row that could not run.

        Raises:
            ValidationError: It has no name, or one that is too long; no schedule or two, or one
                that cannot be; its arguments are not JSON; it ticks an unknown job, or calls that
                do not fit its ``fetch``.
        """
        try:
            self._meta.get_field("name").clean(self.name, self)
        except ValidationError as error:
            raise ValidationError({"name": error.messages}) from error
        check_when(self)
        load_headers(self)
        check_tick(self, *load_arguments(self))

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Validate, write and tell beat."""
        self.validate()
        super().save(*args, **kwargs)

    def delay(self) -> Any:
        """Run the task now, with its arguments and options, and count the run.

        Returns:
            Celery's result of the call.

        Raises:
            UnknownTask: The Celery app has no such task.
            ValidationError: The arguments are not JSON.
        """
        args, kwargs = load_arguments(self)
        names = ("queue", "exchange", "routing_key", "priority")
        options = {
            name: value for name in names if (value := getattr(self, name)) not in (None, "")
        }
        if self.expires_:
            options["expires"] = self.expires_
        sent = task_named(str(self.task)).apply_async(
            args, kwargs, headers=load_headers(self), **options
        )
        self.last_run_at = now()
        type(self).objects.filter(pk=self.pk).update(
            total_run_count=F("total_run_count") + 1, last_run_at=self.last_run_at
        )
        self.refresh_from_db(fields=["total_run_count"])
        return sent


class PeriodicTaskMeta(PeriodicTask):
    """A periodic task whose ``task`` is the task itself, and not its name."""

    class Meta:
        """No table of its own."""

        proxy = True


# A class body's attribute would be taken for a field's default.
PeriodicTaskMeta.task = TaskAttribute(PeriodicTaskMeta._meta.get_field("task"))
