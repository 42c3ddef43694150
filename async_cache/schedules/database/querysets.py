"""Managers of the proxies: natural keys, and no write past validation or beat's notice."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.db import models
from django_celery_beat.models import PeriodicTasks

__all__ = ["QuerySet"]


class QuerySet(models.QuerySet[Any]):
    """Rows whose changes beat is told of, those in bulk too."""

    def enabled(self) -> QuerySet:
        """Return the periodic tasks that run, their schedules loaded."""
        return self.filter(enabled=True).prefetch_related("interval", "crontab", "solar", "clocked")

    def get_by_natural_key(self, *values: Any) -> Any:
        """Return the row of a natural key; of equal schedules the first.

        Raises:
            DoesNotExist: There is none.
        """
        names = self.model.NATURAL_KEY
        found = self.filter(**dict(zip(names, values, strict=True))).order_by("pk").first()
        if found is None:
            raise self.model.DoesNotExist(f"No {self.model.__name__} has the key {values!r}.")
        return found

    def update(self, **changes: Any) -> int:
        """Change the rows, and tell beat."""
        number = super().update(**changes)
        if number:
            PeriodicTasks.update_changed()
        return number

    def bulk_create(self, objs: Iterable[Any], *args: Any, **kwargs: Any) -> list[Any]:
        """Insert rows, each validated before the first is written, and tell beat."""
        rows = list(objs)
        for row in rows:
            row.validate()
        made = super().bulk_create(rows, *args, **kwargs)
        PeriodicTasks.update_changed()
        return made

    def bulk_update(self, objs: Iterable[Any], *args: Any, **kwargs: Any) -> int:
        """Change rows, each validated before the first is written, and tell beat."""
        rows = list(objs)
        for row in rows:
            row.validate()
        return super().bulk_update(rows, *args, **kwargs)
