"""What the camera sees: workers and tasks, as rows."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import ClassVar, Final

from django.db import models
from django.utils.translation import gettext_lazy as _

from async_cache.monitor.managers import TaskStateManager, WorkerStateManager
from async_cache.monitor.moments import now

__all__ = ["TaskState", "WorkerState"]

ALIVE: Final = timedelta(seconds=180)
"""Without a word for so long a worker counts as gone.

Celery's own state says so after two minutes; the camera writes a worker's row once a minute at
most.
"""


class WorkerState(models.Model):
    """A worker.

    Attributes:
        hostname: Its name.
        last_heartbeat: When it was last heard of.
    """

    hostname = models.CharField(_("hostname"), max_length=255, unique=True)
    last_heartbeat = models.DateTimeField(_("last heartbeat"), null=True, db_index=True)

    objects: ClassVar[WorkerStateManager] = WorkerStateManager()

    class Meta:
        """Newest first, and only to be looked at."""

        verbose_name = _("worker")
        verbose_name_plural = _("workers")
        get_latest_by = "last_heartbeat"
        ordering: ClassVar = ["-last_heartbeat"]
        default_permissions = ("view",)

    def __str__(self) -> str:
        return self.hostname

    def is_alive(self, moment: datetime | None = None) -> bool:
        """Tell whether it has lately been heard of.

        Args:
            moment: What counts as now.
        """
        if self.last_heartbeat is None:
            return False
        return (moment or now()) - self.last_heartbeat < ALIVE

    @property
    def heartbeat_timestamp(self) -> float | None:
        """When it was last heard of, in seconds since the epoch."""
        return None if self.last_heartbeat is None else self.last_heartbeat.timestamp()


class TaskState(models.Model):
    """A task as its events tell of it.

    Attributes:
        state: What its last event says.
        task_id: Its id.
        name: The task's name.
        tstamp: When the last event came.
        args: Text of its arguments, where they are kept.
        kwargs: Text of its keyword arguments, where they are kept.
        eta: When it is to run at the earliest.
        expires: When it is not to be run any more.
        result: Text of its value, where it is kept; of a failed task the type of its error.
        traceback: Of a failed task.
        runtime: Seconds that it ran.
        retries: How often it was tried again.
        worker: Who runs it.
        hidden: Old enough to be deleted by the next `purge`.
    """

    state = models.CharField(_("state"), max_length=64)
    task_id = models.CharField(_("task id"), max_length=255, unique=True)
    name = models.CharField(_("name"), max_length=200, null=True, db_index=True)
    tstamp = models.DateTimeField(_("event received at"), db_index=True)
    args = models.TextField(_("arguments"), null=True)
    kwargs = models.TextField(_("keyword arguments"), null=True)
    eta = models.DateTimeField(_("ETA"), null=True)
    expires = models.DateTimeField(_("expires"), null=True)
    result = models.TextField(_("result"), null=True)
    traceback = models.TextField(_("traceback"), null=True)
    runtime = models.FloatField(_("execution time"), null=True, help_text=_("in seconds"))
    retries = models.PositiveIntegerField(_("number of retries"), default=0)
    worker = models.ForeignKey(
        WorkerState,
        null=True,
        verbose_name=_("worker"),
        on_delete=models.SET_NULL,
        related_name="tasks",
    )
    hidden = models.BooleanField(default=False, editable=False)

    objects: ClassVar[TaskStateManager] = TaskStateManager()

    class Meta:
        """Newest first, and only to be looked at."""

        verbose_name = _("task")
        verbose_name_plural = _("tasks")
        get_latest_by = "tstamp"
        ordering: ClassVar = ["-tstamp"]
        default_permissions = ("view",)
        permissions: ClassVar = [
            ("revoke_taskstate", "Can revoke tasks"),
            ("terminate_taskstate", "Can terminate tasks"),
            ("rate_limit_taskstate", "Can limit the rate of tasks"),
        ]
        indexes: ClassVar = [
            models.Index(fields=["state", "tstamp"], name="async_cache_state_tstamp"),
            models.Index(fields=["id"], name="async_cache_hidden", condition=models.Q(hidden=True)),
        ]

    def __str__(self) -> str:
        return f"{self.name or 'a task'} {self.task_id}: {self.state}"
