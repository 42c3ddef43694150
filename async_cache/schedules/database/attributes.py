"""The task of a row as an object of the Celery app."""

from __future__ import annotations

from functools import partial
from typing import Any

from celery import current_app
from celery.local import Proxy
from django.db.models.query_utils import DeferredAttribute

from async_cache.exceptions import AsyncCacheError

__all__ = ["RegisteredTask", "TaskAttribute", "UnknownTask", "task_named"]


class UnknownTask(AsyncCacheError, AttributeError, LookupError):
    """The Celery app of this process has no task of that name."""


def task_named(name: str) -> Any:
    """Return the task of that name of the current Celery app.

    Raises:
        UnknownTask: There is none.
    """
    tasks = current_app.tasks
    if name not in tasks:
        current_app.loader.import_default_modules()
    try:
        return tasks[name]
    except KeyError:
        raise UnknownTask(
            f"The Celery app of this process has no task {name!r}. Correct the name, or import "
            "the module that defines it."
        ) from None


class RegisteredTask(Proxy):  # type: ignore[type-arg]
    """A task of the Celery app, looked up when it is used; as text its name.

    Rows are written by that text, whichever way they are.
    """

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        super().__init__(partial(task_named, name))
        object.__setattr__(self, "_name", name)

    def __str__(self) -> str:
        return str(object.__getattribute__(self, "_name"))

    def __reduce__(self) -> Any:
        return RegisteredTask, (str(self),)


class TaskAttribute(DeferredAttribute):
    """The field ``task``: kept as the name, read as the task."""

    def __get__(self, instance: Any, cls: Any = None) -> Any:
        found = super().__get__(instance, cls)
        return RegisteredTask(found) if isinstance(found, str) and found else found

    def __set__(self, instance: Any, value: Any) -> None:
        if type(value) is RegisteredTask:
            value = str(value)
        instance.__dict__[self.field.attname] = getattr(value, "name", value)
