"""Rows of task results."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from django.db import models
from django.utils import timezone

from async_cache.results.managers import TaskResultManager
from async_cache.results.records import (
    FAILURE,
    PENDING,
    READY_STATES,
    RETRY,
    STATES,
    SUCCESS,
    Record,
    rank,
)
from async_cache.results.rows import IdField, from_text
from async_cache.results.utils import to_timestamp

__all__ = [
    "TASK_STATUSES",
    "TASK_STATUSES_CHOICES",
    "TASK_STATUS_DONE",
    "TASK_STATUS_FAILURE",
    "TASK_STATUS_PENDING",
    "TASK_STATUS_RETRY",
    "TaskResult",
]

TASK_STATUS_PENDING: Final = PENDING
TASK_STATUS_RETRY: Final = RETRY
TASK_STATUS_FAILURE: Final = FAILURE
TASK_STATUS_DONE: Final = SUCCESS
TASK_STATUSES: Final = list(STATES)
TASK_STATUSES_CHOICES: Final = tuple((state, state) for state in STATES)


class TaskResult(models.Model):
    """State and result of one task."""

    task_id = IdField("task id", unique=True)
    task_name = IdField("task name", null=True, blank=True, default=None)
    periodic_task_name = IdField("periodic task name", null=True, blank=True, default=None)
    task_args = models.TextField("positional arguments", null=True, blank=True, default=None)
    task_kwargs = models.TextField("named arguments", null=True, blank=True, default=None)
    # Without choices: projects have states of their own.
    status = models.CharField("state", max_length=50, default=PENDING)
    retries = models.PositiveIntegerField("retries", default=0)
    rank = models.IntegerField("rank", default=0, editable=False)
    worker = models.CharField("worker", max_length=100, null=True, blank=True, default=None)
    # All of it fits a row of MySQL's COMPACT format, ids of 191 characters included: 8126 bytes.
    content_type = models.CharField("content type", max_length=64, default="")
    content_encoding = models.CharField("content encoding", max_length=32, default="")
    result = models.TextField("result", null=True, default=None, editable=False)
    traceback = models.TextField("traceback", null=True, blank=True, default=None)
    meta = models.TextField("meta", null=True, default=None, editable=False)
    hidden = models.BooleanField("hidden", default=False, editable=False)
    group = IdField("group", null=True, blank=True, default=None)
    sequence = models.BigIntegerField("sequence in the group", null=True, blank=True, default=None)
    date_created = models.DateTimeField("created", default=timezone.now)
    date_queued = models.DateTimeField("queued", null=True, blank=True, default=None)
    date_started = models.DateTimeField("started", null=True, blank=True, default=None)
    date_done = models.DateTimeField("last saved", auto_now=True)
    date_finished = models.DateTimeField("finished", null=True, blank=True, default=None)

    objects = TaskResultManager["TaskResult"]()

    class Meta:
        """One index for each question: the unique one on the id besides."""

        ordering: ClassVar = ["-date_done"]
        verbose_name = "task result"
        verbose_name_plural = "task results"
        indexes: ClassVar = [
            models.Index(fields=["group", "sequence", "rank"], name="acr_task_group"),
            models.Index(fields=["date_done"], name="acr_task_done"),
            models.Index(fields=["status", "date_done"], name="acr_task_status"),
            # PostgreSQL finds the beginning of a name only with this class; others ignore it.
            models.Index(
                fields=["task_name", "date_done"],
                name="acr_task_name",
                opclasses=["varchar_pattern_ops", "timestamptz_ops"],
            ),
        ]
        permissions: ClassVar = [
            ("retry_taskresult", "Can send tasks again"),
            ("terminate_taskresult", "Can terminate tasks"),
        ]

    def __str__(self) -> str:
        return f"{self.task_id} ({self.status})"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save the row as it is, whatever is stored; the rank follows the state."""
        self.rank = rank(self.retries, self.status)
        fields = kwargs.get("update_fields")
        if fields is not None:
            kwargs["update_fields"] = {*fields, "rank", "date_done"}
        super().save(*args, **kwargs)

    def as_dict(self) -> dict[str, Any]:
        """Return what Celery's backends know of a result."""
        return {
            "task_id": self.task_id,
            "task_name": self.task_name,
            "task_args": self.task_args,
            "task_kwargs": self.task_kwargs,
            "status": self.status,
            "result": self.stored_result(),
            "date_done": self.date_done,
            "traceback": self.traceback,
            "meta": self.meta,
            "worker": self.worker,
            "periodic_task_name": self.periodic_task_name,
            "date_created": self.date_created,
            "date_started": self.date_started,
            "date_finished": self.date_finished,
            "group": self.group,
        }

    @property
    def ready(self) -> bool:
        """Whether the task has ended."""
        return self.status in READY_STATES

    @property
    def successful(self) -> bool:
        """Whether it ended well."""
        return self.status == SUCCESS

    def to_record(self) -> Record:
        """Return the row as the layers hand it out.

        Raises:
            RecordRejected: The stored value is no base64, though its encoding is binary.
        """
        text = self.stored_result()
        return Record(
            id=self.task_id,
            name=self.task_name or "",
            state=self.status,
            retries=self.retries,
            created=to_timestamp(self.date_created),
            queued=to_timestamp(self.date_queued),
            started=to_timestamp(self.date_started),
            finished=to_timestamp(self.date_finished),
            worker=self.worker or "",
            group=self.group or "",
            sequence=self.sequence,
            value=from_text(text, self.content_encoding),
            content_type=self.content_type,
            content_encoding=self.content_encoding,
            traceback=self.traceback or "",
            meta=self.meta or "",
            args=self.task_args or "",
            kwargs=self.task_kwargs or "",
        )

    def stored_result(self) -> str | None:
        """Return the text of the column ``result``."""
        return self.result
