"""The models of schedules in the database, as djcelery's users know them.

They are proxies of django-celery-beat's, and belong to the app ``async_cache.schedules.database``.
Names are handed out lazily: Django imports this module where that app is not installed, too.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from django.apps import apps

from async_cache.exceptions import ConfigurationError

if TYPE_CHECKING:
    from async_cache.schedules.database.models import (
        CrontabSchedule,
        IntervalSchedule,
        PeriodicTask,
        PeriodicTaskMeta,
        PeriodicTasks,
    )

__all__ = [
    "CrontabSchedule",
    "IntervalSchedule",
    "PeriodicTask",
    "PeriodicTaskMeta",
    "PeriodicTasks",
]

_APP: Final = "async_cache.schedules.database"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if not apps.is_installed(_APP):
        raise ConfigurationError(
            f"{name} is django-celery-beat's. Run `pip install "
            '"django-async-cache[schedules]"`, add "django_celery_beat", '
            f'"async_cache.schedules" and "{_APP}" to INSTALLED_APPS, in this order, and run '
            "`manage.py migrate`."
        )
    return getattr(import_module(f"{_APP}.models"), name)
