# ruff: noqa: D102  (the contract, in base.py, documents the operations)
"""Refresh through Django's own task framework, where Django has one (6.0 and later)."""

from __future__ import annotations

from typing import Any

import django
from django.core.exceptions import ImproperlyConfigured

from async_cache import worker
from async_cache.dispatchers.base import Dispatcher, Refresh
from async_cache.exceptions import ConfigurationError, DispatchFailed
from async_cache.messages import seal_message
from async_cache.secret_keys import get_ring

__all__ = ["DjangoTasksDispatcher", "run_refresh"]


def run_refresh(sealed: str) -> dict[str, int]:
    """Refresh what a sealed message asks for; return how many calls came to which end."""
    return worker.run_sealed(sealed)


_task: Any = None
if django.VERSION >= (6, 0):
    from django.tasks import TaskResultStatus, task
    from django.tasks.backends.immediate import ImmediateBackend
    from django.tasks.exceptions import TaskException

    # A worker imports the task by its function's name and expects to find the task there.
    run_refresh = _task = task(run_refresh)  # type: ignore[assignment]


class DjangoTasksDispatcher(Dispatcher):
    """Enqueues refreshes as tasks of ``django.tasks``.

    ``queue`` becomes the task's ``queue_name``; of ``task_options`` it takes ``backend`` and
    ``priority``. The backend names the task itself, so its id is not that of the lease.
    """

    name = "django_tasks"

    def __init__(self) -> None:
        if _task is None:
            raise ConfigurationError(
                f"Django {django.get_version()} has no tasks. Upgrade to Django 6.0, or use the "
                'dispatcher "celery" or "thread".'
            )

    @property
    def inline(self) -> bool:
        return isinstance(_task.get_backend(), ImmediateBackend)

    @property
    def needs_worker(self) -> bool:
        return not self.inline

    def dispatch(self, refresh: Refresh) -> None:
        task = _task.using(queue_name=refresh.queue, **refresh.options)
        sealed = seal_message(refresh.message, get_ring())
        try:
            result = task.enqueue(sealed)
        except (ImproperlyConfigured, TaskException):
            raise  # this message will never be taken
        except Exception as error:
            raise DispatchFailed(f"The task backend {task.backend!r} took no task.") from error
        if result.status == TaskResultStatus.FAILED:
            raise DispatchFailed(
                f"The refresh ended with {result.errors[-1].exception_class_path}."
            )
