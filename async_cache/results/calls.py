"""Call a function in a worker: `async_task`, `AsyncTask`."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.db import models

from async_cache import clock
from async_cache.exceptions import ConfigurationError
from async_cache.options import seconds
from async_cache.results import groups
from async_cache.results.conf import get_results_settings
from async_cache.results.layers import get_layer
from async_cache.results.messages import CallMessage, seal_call
from async_cache.results.proxies import Task
from async_cache.results.running import Site, find_path, run_call
from async_cache.secret_keys import get_ring

__all__ = ["OPTIONS", "AsyncTask", "aasync_task", "async_task"]

OPTIONS: Final = ("hook", "group", "save", "sync", "cached", "timeout", "task_name")
"""Keywords that `async_task` keeps for itself, beside ``q_options``."""


def async_task(func: str | Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """Call a function in a worker.

    The message goes out at once, whatever becomes of the caller's transaction, and a worker may
    begin before the transaction commits. To send it after the commit, and not at all after a
    rollback, write ``transaction.on_commit(partial(async_task, "shop.orders.ship", order.pk))``.

    Args:
        func: Its dotted path, or the function itself when a path leads to it.
        *args: Its arguments, and whatever else a cache key may hold.
        **kwargs: Its keyword arguments; these are kept from it: ``hook`` (called with the ended
            `Task`), ``group``, ``save`` (False: a success leaves nothing), ``sync`` (call it here
            and now), ``cached`` (True or seconds: keep the outcome in the cache), ``timeout`` in
            seconds, ``task_name``, and ``q_options``, a dict of these, for a function that has a
            keyword of such a name.

    Returns:
        The task's id.

    Raises:
        TypeError: ``q_options`` holds an unknown name, or no path leads to the function.
        ConfigurationError: ``timeout`` or ``cached`` is no duration, or no time at all.
        UnkeyableArgument: An argument cannot travel.
        DispatchFailed: The broker did not take the message within ``PUBLISH_TIMEOUT``. A group does
            not count the call.
        StoreUnavailable: The store of its group did not give it a place.
        UnstorableValue: The label of its group is longer than the database takes.
    """
    options = _take_options(kwargs)
    cached = options.get("cached")
    if cached is None:
        cached = get_results_settings().cached
    timeout = _positive(options.get("timeout"), "timeout")
    path, hook, group = path_of(func), options.get("hook"), options.get("group")
    message = CallMessage(
        id=uuid.uuid4().hex,
        path=path,
        args=args,
        kwargs=kwargs,
        name=options.get("task_name") or "",
        group="" if group is None else str(group),
        created=clock.now(),
        hook="" if hook is None else path_of(hook),
        save=options.get("save") is not False,
        cached=cached if isinstance(cached, bool) else _positive(cached or None, "cached") or False,
    )
    if message.group:
        sequence = get_layer(message.cached).reserve(message.group)
        message = message._replace(sequence=sequence)
    if options.get("sync"):
        run_call(message, Site(timeout=timeout))
        return message.id
    sealed = seal_call(message._replace(queued=clock.now()), get_ring())
    # Celery is imported by the first call: who only reads results does not need it.
    tasks = import_module("async_cache.results.tasks")
    tasks.publish(sealed, message.id, path, timeout)
    return message.id


aasync_task = sync_to_async(async_task)


def _take_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    given = dict(kwargs.pop("q_options", None) or {})
    unknown = sorted(set(given) - set(OPTIONS))
    if unknown:
        raise TypeError(
            f"q_options has no {', '.join(map(repr, unknown))}; it takes {', '.join(OPTIONS)}."
        )
    for name in OPTIONS:
        if name not in given and name in kwargs:
            given[name] = kwargs.pop(name)
    return given


def _positive(value: object, name: str) -> float | None:
    number = seconds(value, name)
    if number is not None and number <= 0:
        raise ConfigurationError(f"{name}: it must be more than zero.")
    return number


def path_of(func: str | Callable[..., Any]) -> str:
    """Return the dotted path of a function.

    Raises:
        TypeError: No path leads to it: a lambda, a local function, a bound method.
    """
    if isinstance(func, str):
        parts = func.split(".")
        if len(parts) < 2 or not all(map(str.isidentifier, parts)):
            raise TypeError(f"{func!r} is no dotted path; write 'module.function'.")
        return func
    module, name = getattr(func, "__module__", ""), getattr(func, "__qualname__", "")
    path = f"{module}.{name}"
    try:
        found = find_path(path) if module and name and "<" not in name else None
    except ImportError:
        found = None
    if found is None or found is not func or module == "__main__":
        raise TypeError(f"No dotted path leads to {func!r}; define it at the top of a module.")
    return path


class AsyncTask:
    """A call that is sent by `run`, or by the first question for its result.

    Args:
        func: What `async_task` takes.
        *args: Its arguments.
        **kwargs: Its keyword arguments and the options of `async_task`.

    Attributes:
        id: The task's id; None before it is sent.
    """

    def __init__(self, func: str | Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self.func = func
        self.args = args
        self.kwargs = kwargs
        self.id: str | None = None

    def _option(self, name: str) -> Any:
        given = self.kwargs.get("q_options") or {}
        return given.get(name, self.kwargs.get(name))

    @property
    def group(self) -> str | None:
        """The label of its group."""
        group = self._option("group")
        return None if group is None else str(group)

    @property
    def cached(self) -> bool | float | None:
        """Where its outcome is kept."""
        cached: bool | float | None = self._option("cached")
        return cached

    def run(self) -> str:
        """Send the call, again when it was sent before; return the new id."""
        self.id = async_task(self.func, *self.args, **self.kwargs)
        return self.id

    def _sent(self) -> str:
        return self.id or self.run()

    def result(self, wait: float = 0) -> Any:
        """Return what `groups.result` does for this task."""
        return groups.result(self._sent(), wait, self.cached)

    def fetch(self, wait: float = 0) -> Task | None:
        """Return what `groups.fetch` does for this task."""
        return groups.fetch(self._sent(), wait, self.cached)

    def result_group(
        self, failures: bool = False, wait: float = 0, count: int | None = None
    ) -> list[Any]:
        """Return what `groups.result_group` does for the group of this task."""
        self._sent()
        return groups.result_group(self.group or "", failures, wait, count, self.cached)

    def fetch_group(
        self, failures: bool = True, wait: float = 0, count: int | None = None
    ) -> models.QuerySet[Task] | list[Task]:
        """Return what `groups.fetch_group` does for the group of this task."""
        self._sent()
        return groups.fetch_group(self.group or "", failures, wait, count, self.cached)

    async def arun(self) -> str:
        """Do what `run` does."""
        return await sync_to_async(self.run)()

    async def _asent(self) -> str:
        return self.id or await self.arun()

    async def aresult(self, wait: float = 0) -> Any:
        """Return what `result` does; no thread is held meanwhile."""
        return await groups.aresult(await self._asent(), wait, self.cached)

    async def afetch(self, wait: float = 0) -> Task | None:
        """Return what `fetch` does; no thread is held meanwhile."""
        return await groups.afetch(await self._asent(), wait, self.cached)

    async def aresult_group(
        self, failures: bool = False, wait: float = 0, count: int | None = None
    ) -> list[Any]:
        """Return what `result_group` does; no thread is held meanwhile."""
        await self._asent()
        return await groups.aresult_group(self.group or "", failures, wait, count, self.cached)

    async def afetch_group(
        self, failures: bool = True, wait: float = 0, count: int | None = None
    ) -> models.QuerySet[Task] | list[Task]:
        """Return what `fetch_group` does; no thread is held meanwhile."""
        await self._asent()
        return await groups.afetch_group(self.group or "", failures, wait, count, self.cached)
