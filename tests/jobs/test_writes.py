"""P4: an invalidation, a set or a delete during a fetch is not hidden by its late commit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from async_cache import MISSING, AsyncCacheJob, Status, UnstorableValue, flights, invalidate_tags
from async_cache.signals import refresh_refused, scope_invalidated
from async_cache.testing import capture_refreshes
from tests.jobs.support import Caller, Gate, Shelf, heard

GATES: list[Gate] = []


class Source(AsyncCacheJob[Any]):
    """Returns what the source held when the fetch began; a gate may hold it there."""

    ttl = 600
    jitter = 0.0
    tags = ("books",)
    value: Any = "old"
    calls = 0

    def fetch(self, name: str = "bob") -> Any:
        Source.calls += 1
        seen = Source.value
        if GATES:
            GATES.pop()()
        return seen


@pytest.fixture(autouse=True)
def _reset() -> None:
    GATES.clear()
    Source.value = "old"
    Source.calls = 0


WRITES: dict[str, Callable[[Source], None]] = {
    "invalidate": lambda job: job.invalidate("bob"),
    "delete": lambda job: job.delete("bob"),
    "clear": lambda job: job.clear(),
    "tags": lambda job: invalidate_tags("books"),
    "set": lambda job: job.set("set", "bob"),
}
SOFT = {"invalidate", "tags"}


@pytest.mark.parametrize("verb", WRITES)
@pytest.mark.parametrize("cold", [True, False], ids=["cold", "refresh"])
def test_p4_a_late_commit_does_not_hide_a_write(each_alias: str, verb: str, cold: bool) -> None:
    job = Source()
    if not cold:
        assert job.get("bob") == "old"
    gate = Gate()
    GATES.append(gate)
    caller = Caller(lambda: job.get("bob") if cold else job.refresh("bob"))
    assert gate.entered.wait(10)
    Source.value = "new"
    WRITES[verb](job)
    gate.opened.set()
    assert caller.result() == "old", "the fetcher gets what it fetched"
    if verb == "set":
        assert job.get("bob") == "set"
        assert job.explain("bob").status is Status.FRESH
    elif verb in SOFT:
        assert job.explain("bob").status is Status.STALE
        assert job.get("bob") == "old"
        assert job.get("bob") == "new", "the stale read has started a refresh"
    else:
        assert job.peek("bob") is MISSING
        assert job.get("bob") == "new"
    assert job.explain("bob").refresh is None, "no lease is left behind"


@pytest.mark.parametrize("verb", ["delete", "clear", "set"])
def test_p4_a_refused_commit_is_announced(alias: str, verb: str) -> None:
    job = Source()
    gate = Gate()
    GATES.append(gate)
    with heard(refresh_refused) as events:
        caller = Caller(lambda: job.get("bob"))
        assert gate.entered.wait(10)
        WRITES[verb](job)
        gate.opened.set()
        caller.result()
    assert [event["reason"] for event in events] == ["overtaken"]


@pytest.mark.parametrize("verb", ["delete", "clear"])
def test_p4_who_comes_after_a_delete_does_not_get_the_flight_s_value(alias: str, verb: str) -> None:
    """A reader that joins a fetch begun before the delete must not be answered with it."""
    job = Source()
    gate = Gate()
    GATES.append(gate)
    first = Caller(lambda: job.get("bob"))
    assert gate.entered.wait(10)
    Source.value = "new"
    WRITES[verb](job)
    second = Caller(lambda: job.get("bob")).blocked()
    many = Caller(lambda: job.get_many([("bob",), ("bob",)])).blocked()
    gate.opened.set()
    assert first.result() == "old"
    assert second.result() == "new"
    assert many.result() == ["new", "new"]


@pytest.mark.parametrize("verb", ["delete", "clear"])
def test_p4_who_joins_a_fetch_that_was_stored_before_the_delete_gets_a_new_one(
    each_alias: str, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The value is committed, the flight has not ended: nothing was refused yet."""
    job = Source()
    gate = Gate()
    finish = flights.finish

    def held(*args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(flights, "finish", finish)
        gate()
        finish(*args, **kwargs)

    monkeypatch.setattr(flights, "finish", held)
    first = Caller(lambda: job.get("bob"))
    assert gate.entered.wait(10)
    assert job.get("bob") == "old"
    Source.value = "new"
    WRITES[verb](job)
    reads: list[Callable[[], Any]] = [
        lambda: job.get("bob"),
        lambda: job.get_many([("bob",)])[0],
        lambda: asyncio.run(job.aget("bob")),
    ]
    join, boarded = flights.join, threading.Semaphore(0)

    def joined(*args: Any, **kwargs: Any) -> Any:
        try:
            return join(*args, **kwargs)
        finally:
            boarded.release()

    monkeypatch.setattr(flights, "join", joined)
    callers = [Caller(read) for read in reads]
    for _ in reads:
        assert boarded.acquire(timeout=10)
    gate.opened.set()
    assert first.result() == "old"
    assert [one.result() for one in callers] == ["new", "new", "new"]
    assert Source.calls == 2


def test_p4_a_message_from_before_a_delete_stores_nothing_old(alias: str, shelf: Shelf) -> None:
    job = Source()
    job.get("bob")
    job.invalidate("bob")
    job.get("bob")
    gate = Gate()
    GATES.append(gate)
    worker = Caller(shelf.run)
    assert gate.entered.wait(10)
    Source.value = "new"
    job.delete("bob")
    gate.opened.set()
    worker.result()
    assert job.get("bob") == "new"


def test_invalidate_is_soft_and_a_read_refreshes(alias: str, shelf: Shelf) -> None:
    job = Source()
    job.get("bob")
    job.get("eve")
    Source.value = "new"
    job.invalidate("bob")
    assert job.explain("bob").status is Status.STALE
    assert job.explain("eve").status is Status.FRESH, "only that key"
    assert job.get("bob") == "old"
    shelf.run_all()
    assert job.get("bob") == "new"


def test_p4_an_invalidation_asks_again_though_a_refresh_was_just_asked_for(
    alias: str, shelf: Shelf
) -> None:
    """The guard of this process holds for one state of the stamps only."""
    job = Source()
    job.get("bob")
    job.invalidate("bob")
    job.get("bob")
    shelf.run_all()
    Source.value = "new"
    job.invalidate("bob")
    job.get("bob")
    shelf.run_all()
    assert job.get("bob") == "new"


def test_invalidate_of_what_is_not_there_is_no_error(alias: str) -> None:
    job = Source()
    job.invalidate("bob")
    job.delete("bob")
    job.clear()
    assert job.get("bob") == "old"


def test_delete_takes_the_entry_out_of_the_store(alias: str) -> None:
    job = Source()
    job.get("bob")
    assert job.explain("bob").size > 0
    job.delete("bob")
    assert job.explain("bob").size == 0


def test_clear_reaches_every_key_version_and_constructor(alias: str) -> None:
    class Made(AsyncCacheJob[int]):
        calls = 0

        def __init__(self, place: str = "here") -> None:
            self.place = place

        def fetch(self, name: str) -> int:
            Made.calls += 1
            return Made.calls

    made: Any = Made  # its options are no parameters of its __init__
    jobs = [Made(), Made("there"), made(version=2), made("there", version="b")]
    for job in jobs:
        job.get("a")
        job.get("b")
    Made().clear()
    assert [job.peek(name) for job in jobs for name in "ab"] == [MISSING] * 8


def test_set_stores_and_takes_the_arguments_of_fetch(alias: str) -> None:
    job = Source()
    job.set("given", name="bob")
    assert job.get("bob") == "given"
    assert Source.calls == 0
    assert job.explain("bob").tags == ("books",)
    with pytest.raises(TypeError):
        job.set("given", "bob", "too many")


def test_set_ends_a_back_off(alias: str) -> None:
    class Failing(AsyncCacheJob[str]):
        def fetch(self) -> str:
            raise ZeroDivisionError

    job = Failing()
    with pytest.raises(ZeroDivisionError):
        job.get()
    assert job.explain().failures == 1
    job.set("x")
    assert job.explain().failures == 0
    assert job.get() == "x"


def test_set_refuses_what_cannot_be_stored(alias: str) -> None:
    job = Source()
    job.set("kept", "bob")
    with pytest.raises(UnstorableValue):
        job.set(lambda: None, "bob")
    assert job.get("bob") == "kept"


def test_set_with_a_name_that_fetch_has_too(alias: str) -> None:
    """The value is positional only, so `fetch` may have a parameter called value."""

    class Valued(AsyncCacheJob[str]):
        def fetch(self, value: str) -> str:
            return value

    Valued().set("stored", value="asked")
    assert Valued().get("asked") == "stored"


def test_what_is_invalidated_is_announced(alias: str) -> None:
    job = Source()
    with heard(scope_invalidated) as events:
        for verb in ("invalidate", "delete", "clear", "tags"):
            WRITES[verb](job)
    assert [(one["scope"], one["hard"]) for one in events] == [
        ("key", False),
        ("key", True),
        ("job", True),
        ("tag", False),
    ]


class TestRefresh:
    def test_refresh_fetches_now_whatever_is_there(self, alias: str) -> None:
        job = Source()
        job.get("bob")
        Source.value = "new"
        assert job.refresh("bob") == "new"
        assert job.get("bob") == "new"

    def test_refresh_waits_for_another_s_fetch_and_fetches_then(self, alias: str) -> None:
        job = Source()
        gate = Gate()
        GATES.append(gate)
        first = Caller(lambda: job.get("bob"))
        assert gate.entered.wait(10)
        Source.value = "new"
        second = Caller(lambda: job.refresh("bob"))
        gate.opened.set()
        assert first.result() == "old"
        assert second.result() == "new"
        assert job.get("bob") == "new"


class TestRefreshLater:
    def test_it_sends_its_own_message_and_the_handle_waits(self, alias: str, shelf: Shelf) -> None:
        job = Source()
        handle = job.refresh_later("bob")
        assert not handle.coalesced
        assert handle.task_id == shelf.messages[0].task_id
        assert handle.wait(0) is False
        assert job.explain("bob").task_id == handle.task_id
        shelf.run_all()
        assert handle.wait(5) is True
        assert job.peek("bob") == "old"

    def test_of_a_fresh_value_it_fetches_too(self, alias: str, shelf: Shelf) -> None:
        job = Source()
        job.get("bob")
        Source.value = "new"
        handle = job.refresh_later("bob")
        shelf.run_all()
        assert handle.wait(5) is True
        assert job.get("bob") == "new"

    def test_coalesced_it_names_the_running_task(self, alias: str, shelf: Shelf) -> None:
        job = Source()
        first = job.refresh_later("bob")
        second = job.refresh_later("bob")
        assert second.coalesced
        assert second.task_id == first.task_id
        assert len(shelf.messages) == 1
        gate = Gate()
        GATES.append(gate)
        worker = Caller(shelf.run)
        assert gate.entered.wait(10)
        third = job.refresh_later("bob")
        assert third.coalesced
        assert third.task_id == first.task_id, "the worker's lease belongs to the same task"
        waiting = Caller(lambda: third.wait(10))
        gate.opened.set()
        assert waiting.result() is True
        worker.result()

    def test_a_failed_fetch_ends_the_wait(self, alias: str, shelf: Shelf) -> None:
        class Failing(AsyncCacheJob[str]):
            def fetch(self) -> str:
                raise OSError

        handle = Failing().refresh_later()
        shelf.run_all()
        assert handle.wait(10) is False

    def test_refresh_many_asks_for_each(self, alias: str, shelf: Shelf) -> None:
        job = Source()
        with capture_refreshes() as seen:
            assert job.refresh_many([("a",), {"name": "b"}]) == 2
            shelf.run_all()
        assert len(seen.committed) == 2
        assert job.peek("a") == job.peek("b") == "old"
