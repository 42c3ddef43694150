"""`Task`: a task that ended, as `fetch` returns it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from asgiref.sync import sync_to_async
from django.db import models

from async_cache.results.layers import get_layer
from async_cache.results.managers import TaskResultManager
from async_cache.results.models import TaskMeta
from async_cache.results.outcomes import count_members, values_of
from async_cache.results.records import SUCCESS, Record

__all__ = ["Task", "TaskManager"]

_ANNOTATED: Final[dict[str, Any]] = {
    "success": models.ExpressionWrapper(
        models.Q(status=SUCCESS), output_field=models.BooleanField()
    )
}


class TaskManager(TaskResultManager["Task"]):
    """Lets queries ask for ``success``."""

    def get_queryset(self) -> models.QuerySet[Task]:
        """Return the rows with ``success`` beside the columns."""
        return super().get_queryset().annotate(**_ANNOTATED)


class Task(TaskMeta):
    """A task result whose ``result`` is the value, or the exception of a failed task.

    Attributes:
        cached: Where it was read: False for the database, True for the cache.
    """

    cached: bool = False

    if TYPE_CHECKING:
        result: Any

    objects = TaskManager()  # type: ignore[misc]

    class Meta:
        """The rows of `TaskResult`."""

        proxy = True

    @classmethod
    def from_record(cls, record: Record, cached: bool) -> Task:
        """Return a record as an instance; one that was cached has no row."""
        # No column limits what is cached.
        row = cls.objects.row_of(record.replace(id="", group=""))
        task = cls(**row | {"task_id": record.id, "group": record.group or None})
        task.cached = cached
        return task

    @cached_property
    def success(self) -> bool:
        """Whether the task ended well."""
        return self.status == SUCCESS

    def group_result(self, failures: bool = False) -> list[Any]:
        """Return the values of the task's group; without a group none."""
        return values_of(get_layer(self.cached), self.group, failures) if self.group else []

    def group_count(self, failures: bool = False) -> int:
        """Return how many of the task's group ended; with ``failures`` only those that failed."""
        return count_members(get_layer(self.cached), self.group, failures) if self.group else 0

    def group_delete(self, tasks: bool = False) -> int:
        """Drop the label of the task's group, with ``tasks`` its members too."""
        return get_layer(self.cached).delete_group(self.group, tasks) if self.group else 0

    agroup_result = sync_to_async(group_result)
    agroup_count = sync_to_async(group_count)
    agroup_delete = sync_to_async(group_delete)
