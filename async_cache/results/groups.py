"""Results by task and by group; each function has a twin for event loops, named with an ``a``.

``wait`` is milliseconds: 0 does not wait, -1 waits without end. ``cached`` says where to look:
False for the database, True for the cache, None for what the setting ``CACHED`` says. The setting
``MAX_WAIT`` bounds every wait; one that runs out returns what is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asgiref.sync import sync_to_async
from django.db import models

from async_cache.results.conf import get_results_settings
from async_cache.results.exceptions import NoResult
from async_cache.results.layers import get_layer
from async_cache.results.outcomes import count_members, ended_members, value_of, values_of
from async_cache.results.proxies import Task
from async_cache.results.records import NO_RECORD, READY_STATES, SUCCESS, NoRecord, Record
from async_cache.results.waiting import GROUP, NAME, TASK, Topic, await_until, bound, wait_until
from async_cache.validators import shown

__all__ = [
    "acount_group",
    "adelete_group",
    "afetch",
    "afetch_group",
    "aget",
    "aresult",
    "aresult_group",
    "count_group",
    "delete_group",
    "fetch",
    "fetch_group",
    "get",
    "result",
    "result_group",
]

Cached = bool | float | None


def _where(cached: Cached) -> bool:
    if cached is None:
        cached = get_results_settings().cached
    return bool(cached)


def _label(group_id: object) -> str:
    """Return a label as `async_task` takes it; empty for none, which is no group."""
    return "" if group_id is None else str(group_id)


class _Find:
    """Ask a layer for a task."""

    def __init__(self, task_id: str, cached: Cached) -> None:
        self.task_id = task_id
        self.cached = _where(cached)
        self.layer = get_layer(self.cached)

    def ask(self) -> Record | NoRecord:
        found = self.layer.find(self.task_id)
        return found if found is not NO_RECORD and found.ready else NO_RECORD

    def done(self, found: Record | NoRecord) -> bool:
        return found is not NO_RECORD

    def wait(self, wait: float) -> Record | NoRecord:
        return wait_until(self.layer, self._topics, self.ask, self.done, bound(wait))

    async def await_(self, wait: float) -> Record | NoRecord:
        return await await_until(self.layer, self._topics, self.ask, self.done, bound(wait))

    @property
    def _topics(self) -> dict[Topic, int]:
        return {Topic(TASK, self.task_id): 1, Topic(NAME, self.task_id): 1}


class _Gather:
    """Ask a layer how many of a group ended."""

    def __init__(self, group_id: str, wait: float, count: int | None, cached: Cached) -> None:
        if count is not None and not hasattr(count, "__index__"):
            raise TypeError(f"count takes an int or None, not {shown(count)}.")
        self.group_id = _label(group_id)
        self.layer = get_layer(_where(cached))
        self.least = count or 1
        # With a count even a wait of 0 waits: for as long as the setting permits.
        seconds = bound(-1 if count and not wait else wait)
        self.seconds = seconds if self.group_id else 0.0

    def ask(self) -> int:
        return self.layer.count(self.group_id).ended

    def done(self, ended: int) -> bool:
        return ended >= self.least

    def told(self, news: Mapping[Topic, int]) -> int:
        return max(news.values(), default=0)

    def wait(self) -> None:
        if self.seconds:
            wait_until(self.layer, self._topics, self.ask, self.done, self.seconds, self.told)

    async def await_(self) -> None:
        if self.seconds:
            await await_until(
                self.layer, self._topics, self.ask, self.done, self.seconds, self.told
            )

    @property
    def _topics(self) -> dict[Topic, int]:
        return {Topic(GROUP, self.group_id): self.least}


def _value(found: Record | NoRecord) -> Any:
    return None if found is NO_RECORD else value_of(found)


def _task(found: Record | NoRecord, cached: bool) -> Task | None:
    return None if found is NO_RECORD else Task.from_record(found, cached)


def _strict(found: Record | NoRecord, task_id: str) -> Any:
    if found is NO_RECORD:
        raise NoResult(f"There is no result of the task {task_id!r}.")
    value = value_of(found)
    if not found.successful:
        raise value
    return value


def result(task_id: str, wait: float = 0, cached: Cached = None) -> Any:
    """Return a task's value; of a failed one its exception, and None when there is none yet.

    Args:
        task_id: Its id, or its name.
        wait: Milliseconds to wait for it; -1 without end.
        cached: Where to look.
    """
    find = _Find(task_id, cached)
    return _value(find.wait(wait))


async def aresult(task_id: str, wait: float = 0, cached: Cached = None) -> Any:
    """Return what `result` does."""
    find = _Find(task_id, cached)
    return _value(await find.await_(wait))


def fetch(task_id: str, wait: float = 0, cached: Cached = None) -> Task | None:
    """Return a task that ended, or None.

    Args:
        task_id: Its id, or its name.
        wait: Milliseconds to wait for it; -1 without end.
        cached: Where to look.
    """
    find = _Find(task_id, cached)
    return _task(find.wait(wait), find.cached)


async def afetch(task_id: str, wait: float = 0, cached: Cached = None) -> Task | None:
    """Return what `fetch` does."""
    find = _Find(task_id, cached)
    return _task(await find.await_(wait), find.cached)


def get(task_id: str, wait: float = 0, cached: Cached = None) -> Any:
    """Return a task's value, or raise.

    Raises:
        NoResult: There is none: unknown, not ended, expired or forgotten.
        Exception: What the task failed with.
    """
    find = _Find(task_id, cached)
    return _strict(find.wait(wait), task_id)


async def aget(task_id: str, wait: float = 0, cached: Cached = None) -> Any:
    """Return or raise what `get` does."""
    find = _Find(task_id, cached)
    return _strict(await find.await_(wait), task_id)


def result_group(
    group_id: str,
    failures: bool = False,
    wait: float = 0,
    count: int | None = None,
    cached: Cached = None,
) -> list[Any]:
    """Return the values of a group in call order; none of an unknown group.

    Args:
        group_id: Its label.
        failures: Whether failed tasks belong to the answer, with their exceptions.
        wait: Milliseconds to wait for a member, or for ``count``; -1 without end.
        count: Wait until as many ended, well or not, even when ``wait`` is 0.
        cached: Where to look.
    """
    gather = _Gather(group_id, wait, count, cached)
    gather.wait()
    return values_of(gather.layer, gather.group_id, failures)


async def aresult_group(
    group_id: str,
    failures: bool = False,
    wait: float = 0,
    count: int | None = None,
    cached: Cached = None,
) -> list[Any]:
    """Return what `result_group` does."""
    gather = _Gather(group_id, wait, count, cached)
    await gather.await_()
    return await sync_to_async(values_of)(gather.layer, gather.group_id, failures)


def fetch_group(
    group_id: str,
    failures: bool = True,
    wait: float = 0,
    count: int | None = None,
    cached: Cached = None,
) -> models.QuerySet[Task] | list[Task]:
    """Return the tasks of a group that ended, in call order.

    Args:
        group_id: Its label.
        failures: Whether failed tasks belong to the answer.
        wait: Milliseconds to wait for a member, or for ``count``; -1 without end.
        count: Wait until as many ended, well or not, even when ``wait`` is 0.
        cached: Where to look.

    Returns:
        A QuerySet of the database, a list of the cache.
    """
    gather = _Gather(group_id, wait, count, cached)
    gather.wait()
    return _members(gather, failures, _where(cached))


async def afetch_group(
    group_id: str,
    failures: bool = True,
    wait: float = 0,
    count: int | None = None,
    cached: Cached = None,
) -> models.QuerySet[Task] | list[Task]:
    """Return what `fetch_group` does."""
    gather = _Gather(group_id, wait, count, cached)
    await gather.await_()
    return await sync_to_async(_members)(gather, failures, _where(cached))


def _members(gather: _Gather, failures: bool, cached: bool) -> models.QuerySet[Task] | list[Task]:
    if cached:
        records = ended_members(gather.layer, gather.group_id, failures)
        return [Task.from_record(record, cached) for record in records]
    manager = Task.objects
    ended = manager.using(manager.connection_for_write().alias).filter(
        group=gather.group_id, status__in=READY_STATES
    )
    if not failures:
        ended = ended.filter(status=SUCCESS)
    order = (models.F("sequence").asc(nulls_last=True), "date_finished", "task_id")
    return ended.order_by(*order)


def count_group(group_id: str, failures: bool = False, cached: Cached = None) -> int:
    """Return how many members of a group ended; 0 of an unknown group.

    Args:
        group_id: Its label.
        failures: True counts only those that failed; False all that ended.
        cached: Where to look.
    """
    return count_members(get_layer(_where(cached)), _label(group_id), failures)


def delete_group(group_id: str, tasks: bool = False, cached: Cached = None) -> int:
    """Drop a group's label; its members stay unless ``tasks`` is true.

    Args:
        group_id: Its label.
        tasks: Whether the members are deleted too.
        cached: Where to look.

    Returns:
        How many members it had; 0 of an unknown group.
    """
    return get_layer(_where(cached)).delete_group(_label(group_id), tasks)


acount_group = sync_to_async(count_group)
adelete_group = sync_to_async(delete_group)
