"""Rows of the results of Celery's groups."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import models
from django.utils import timezone

from async_cache.results.managers import GroupResultManager
from async_cache.results.rows import IdField

__all__ = ["GroupResult"]


class GroupResult(models.Model):
    """What a group of Celery consists of."""

    group_id = IdField("group id", unique=True)
    date_created = models.DateTimeField("created", default=timezone.now)
    date_done = models.DateTimeField("last saved", auto_now=True)
    content_type = models.CharField("content type", max_length=128, default="")
    content_encoding = models.CharField("content encoding", max_length=64, default="")
    result = models.TextField("result", null=True, default=None, editable=False)

    objects = GroupResultManager["GroupResult"]()

    class Meta:
        """Order by the last save."""

        ordering: ClassVar = ["-date_done"]
        verbose_name = "group result"
        verbose_name_plural = "group results"
        indexes: ClassVar = [models.Index(fields=["date_done"], name="acr_group_done")]

    def __str__(self) -> str:
        return str(self.group_id)

    def as_dict(self) -> dict[str, Any]:
        """Return what Celery's backends know of a group."""
        return {"group_id": self.group_id, "result": self.result, "date_done": self.date_done}
