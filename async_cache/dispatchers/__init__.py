"""Dispatchers hand refreshes to workers. Found by name, or by a dotted path from the settings."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from django.utils.module_loading import import_string

from async_cache import conf, threads
from async_cache.dispatchers.base import Dispatcher
from async_cache.exceptions import ConfigurationError

__all__ = ["DISPATCHERS", "Dispatcher", "get_dispatcher"]

DISPATCHERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "celery": "async_cache.dispatchers.celery.CeleryDispatcher",
        "django_tasks": "async_cache.dispatchers.django_tasks.DjangoTasksDispatcher",
        "immediate": "async_cache.dispatchers.immediate.ImmediateDispatcher",
        "thread": "async_cache.dispatchers.thread.ThreadDispatcher",
    }
)

_lock = threading.RLock()
_made: dict[str, Dispatcher] = {}
_epoch = 0


def get_dispatcher(name: str) -> Dispatcher:
    """Return the dispatcher of that name; one instance until the settings change.

    Args:
        name: ``celery``, ``thread``, ``immediate``, ``django_tasks``, or the dotted path of a
            `Dispatcher` subclass that is made without arguments.

    Raises:
        ConfigurationError: There is none, or it cannot be used here.
    """
    global _epoch
    former: list[Dispatcher] = []
    with _lock:
        if _epoch != conf.epoch:
            _epoch = conf.epoch
            former = list(_made.values())
            _made.clear()
        found = _made.get(name)
        if found is None:
            found = _made[name] = _make(name)
    for dispatcher in former:
        dispatcher.close()
    return found


def _make(name: str) -> Dispatcher:
    path = DISPATCHERS.get(name, name)
    try:
        kind = import_string(path)
    except ImportError as error:
        raise ConfigurationError(
            f"The dispatcher {name!r} cannot be imported: {error}. "
            f"Use one of {', '.join(DISPATCHERS)}, or correct the dotted path."
        ) from error
    if not isinstance(kind, type) or not issubclass(kind, Dispatcher):
        raise ConfigurationError(
            f"{path} is not a dispatcher. Name a subclass of async_cache.dispatchers.Dispatcher."
        )
    made: Dispatcher = kind()
    if not isinstance(getattr(made, "name", None), str):
        raise ConfigurationError(
            f"{path} has no name. Set `name` on the class: announcements and logs use it."
        )
    return made


def _reset() -> None:
    global _lock
    _lock = threading.RLock()


threads.after_fork(_reset)
