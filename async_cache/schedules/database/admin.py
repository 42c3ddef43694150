"""Forms of django-celery-beat's admin refuse a tick that could not run."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.core.exceptions import ValidationError
from django_celery_beat import admin as beat_admin
from django_celery_beat.models import PeriodicTask as BeatTask

from async_cache.schedules.database.validation import check_tick, check_when, load_arguments

__all__ = ["PeriodicTaskAdmin", "PeriodicTaskForm"]


class PeriodicTaskForm(beat_admin.PeriodicTaskForm):  # type: ignore[misc]
    """django-celery-beat's form, which looks at ticks of jobs too."""

    def _post_clean(self) -> None:
        super()._post_clean()
        if self.errors:
            return
        try:
            check_when(self.instance)
            check_tick(self.instance, *load_arguments(self.instance))
        except ValidationError as error:
            self.add_error(None, error.messages)


class PeriodicTaskAdmin(beat_admin.PeriodicTaskAdmin):  # type: ignore[misc]
    """django-celery-beat's admin with that form."""

    form = PeriodicTaskForm


def _take_over(site: Any) -> None:
    # One of the project's own stays.
    if type(site._registry.get(BeatTask)) is beat_admin.PeriodicTaskAdmin:
        site.unregister(BeatTask)
        site.register(BeatTask, PeriodicTaskAdmin)


_take_over(admin.site)
