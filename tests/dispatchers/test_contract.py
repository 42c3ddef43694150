"""What every dispatcher does, each over its real machinery."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from async_cache import guards, signals
from async_cache.dispatchers import Dispatcher
from async_cache.jobs.base import AsyncCacheJob
from tests.dispatchers import jobs
from tests.dispatchers.support import eventually, heard

# Both databases: a worker runs the checks of the project.
pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])


def until(condition: Callable[[], object]) -> None:
    """Wait for something that a fetch changes."""
    with jobs.changed:
        assert jobs.changed.wait_for(lambda: bool(condition()), 10), dict(jobs.fetched)


def stored(job: AsyncCacheJob[Any], name: str) -> Any:
    return job.peek(name)


def test_a_stale_value_is_refreshed(dispatcher: Dispatcher) -> None:
    job = jobs.Counting()
    first = job.get("ann")
    with heard(signals.refresh_committed) as events:
        assert job.get("ann") == first, "the reader gets the stale value"
        eventually(lambda: events)
    assert stored(job, "ann").startswith("ann 2 ")


def test_inline_means_before_the_reader_goes_on(dispatcher: Dispatcher) -> None:
    job = jobs.Counting()
    job.get("ann")
    where: list[threading.Thread] = []

    def listen(**_: object) -> None:
        where.append(threading.current_thread())

    signals.refresh_started.connect(listen)
    try:
        job.get("ann")
        eventually(lambda: where)
    finally:
        signals.refresh_started.disconnect(listen)
    assert (where == [threading.current_thread()]) is dispatcher.inline


def test_a_failing_fetch_is_raised_to_nobody_and_keeps_the_value(dispatcher: Dispatcher) -> None:
    job = jobs.Failing()
    job.get("ann")
    with heard(signals.refresh_failed) as events:
        assert job.get("ann") == "ann 1"
        eventually(lambda: events)
    assert events[0]["error_type"] == "ZeroDivisionError"
    assert stored(job, "ann") == "ann 1"
    explanation = eventually(lambda: (e := job.explain("ann")).refresh is None and e)
    assert explanation.last_error == "ZeroDivisionError"
    # The worker goes on with others.
    other = jobs.Counting()
    other.get("eve")
    other.get("eve")
    until(lambda: jobs.fetched["eve"] == 2)


def test_calls_that_can_be_fetched_together_are(dispatcher: Dispatcher) -> None:
    job = jobs.Batched()
    names = [f"name{number}" for number in range(20)]
    job.get_many([(name,) for name in names])
    jobs.batches.clear()
    with heard(signals.refresh_committed) as events:
        assert job.refresh_many([(name,) for name in names]) == 20
        eventually(lambda: len(events) == 20)
    assert jobs.batches == [names]
    assert stored(job, "name7") == "name7 2"


def test_the_stale_values_of_one_read_are_refreshed_together(dispatcher: Dispatcher) -> None:
    job = jobs.Batched()
    names = [f"name{number}" for number in range(20)]
    job.get_many([(name,) for name in names])
    jobs.batches.clear()
    with heard(signals.refresh_committed) as events:
        assert job.get_many([(name,) for name in names]) == [f"{name} 1" for name in names]
        eventually(lambda: len(events) == 20)
    assert jobs.batches == [names]


def test_a_fetch_may_read_other_stale_values(dispatcher: Dispatcher) -> None:
    job = jobs.Nested()
    job.get("ann")
    job.get("ann")
    until(lambda: jobs.fetched["ann"] == 2 and jobs.fetched["anninner"] == 2)


def test_refresh_later_names_its_task_and_can_be_waited_for(dispatcher: Dispatcher) -> None:
    job = jobs.Counting()
    job.get("ann")
    handle = job.refresh_later("ann")
    assert not handle.coalesced
    assert len(handle.task_id) == 36
    assert handle.wait(10)
    assert stored(job, "ann").startswith("ann 2 ")


def test_many_threads_may_dispatch_at_once(dispatcher: Dispatcher) -> None:
    job = jobs.Counting()
    names = [f"name{number}" for number in range(24)]
    for name in names:
        job.get(name)

    def read(mine: list[str]) -> None:
        for name in mine:
            job.get(name)

    readers = [threading.Thread(target=read, args=(names[start::4],)) for start in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(20)
    until(lambda: all(jobs.fetched[name] == 2 for name in names))


def test_a_closed_dispatcher_opens_again(dispatcher: Dispatcher) -> None:
    job = jobs.Counting()
    job.get("ann")
    handle = job.refresh_later("ann")
    assert handle.wait(10)
    dispatcher.close()
    guards.forget()
    with heard(signals.refresh_committed) as events:
        job.get("ann")
        eventually(lambda: events)
