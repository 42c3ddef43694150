"""Tell beat of changes made through the proxies: signals name the class that was saved."""

from __future__ import annotations

from typing import Any

from django.db.models import signals

from async_cache.schedules.database.models import (
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
    PeriodicTaskMeta,
    PeriodicTasks,
)

__all__ = ["connect"]


def connect() -> None:
    """Connect to the signals of the proxies; django-celery-beat does to those of its own."""
    for model in (IntervalSchedule, CrontabSchedule):
        signals.post_save.connect(_changed, sender=model)
        signals.post_delete.connect(_changed, sender=model)
    for task in (PeriodicTask, PeriodicTaskMeta):
        signals.post_save.connect(PeriodicTasks.changed, sender=task)
        signals.post_delete.connect(PeriodicTasks.changed, sender=task)


def _changed(**kwargs: Any) -> None:
    PeriodicTasks.changed()
