"""The rows of results under the names that djcelery gave them."""

from __future__ import annotations

from typing import Any

from django.db import models

from async_cache.results import codec
from async_cache.results.managers import GroupResultManager
from async_cache.results.models.groups import GroupResult
from async_cache.results.models.tasks import TaskResult
from async_cache.results.records import FAILURE, RETRY, REVOKED

__all__ = ["TaskMeta", "TaskSetMeta"]


class _Decoded:
    """The column ``result`` as the value it stands for; written as text."""

    def __get__(self, row: TaskMeta | None, owner: type[TaskMeta]) -> Any:
        if row is None:
            return self
        if row.saving:
            return row.stored_result()
        record = row.to_record()
        if record.content_type == "" and not record.value:
            return None
        if record.state in (FAILURE, RETRY, REVOKED):
            return codec.decode_error(record)
        return codec.decode_value(record)

    def __set__(self, row: TaskMeta, text: str | None) -> None:
        row.__dict__["result"] = text


class TaskMeta(TaskResult):
    """A task result whose ``result`` is the value, or the exception of a failed task.

    What is assigned to ``result`` is the text of the column, as in `TaskResult`.
    """

    saving = False

    class Meta:
        """The rows of `TaskResult`."""

        proxy = True

    def stored_result(self) -> str | None:
        """Return the text of the column ``result``."""
        if "result" not in self.__dict__:
            rows = TaskResult._base_manager.using(self._state.db)
            self.__dict__["result"] = rows.values_list("result", flat=True).get(pk=self.pk)
        text: str | None = self.__dict__["result"]
        return text

    def save_base(self, *args: Any, **kwargs: Any) -> None:
        """Save the column as it was assigned."""
        self.saving = True
        try:
            super().save_base(*args, **kwargs)
        finally:
            self.saving = False


# A field's name; set afterwards, since Django gives proxies no attributes for inherited fields.
TaskMeta.result = _Decoded()  # type: ignore[assignment]


class TaskSetManager(GroupResultManager[GroupResult]):
    """Lets queries name the field as djcelery did."""

    def get_queryset(self) -> models.QuerySet[GroupResult]:
        """Return the rows with ``taskset_id`` beside ``group_id``."""
        return super().get_queryset().annotate(taskset_id=models.F("group_id"))


class TaskSetMeta(GroupResult):
    """A group result under djcelery's names."""

    objects = TaskSetManager()  # type: ignore[assignment,misc]

    class Meta:
        """The rows of `GroupResult`."""

        proxy = True

    @property
    def taskset_id(self) -> str:
        """The group's id."""
        return str(self.group_id)

    @taskset_id.setter
    def taskset_id(self, value: str) -> None:
        self.group_id = value
