"""`get_many`: one round trip, one coalesced refresh, one wait."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest

from async_cache import AsyncCacheJob, Call, FetchUnavailable, UnkeyableArgument, call
from async_cache.stores.registry import get_store
from async_cache.testing import freeze
from tests.jobs.support import SECONDS, Caller, Gate, Shelf


class Each(AsyncCacheJob[str]):
    ttl = 60
    jitter = 0.0
    calls: list[str]
    gates: dict[str, Gate]

    def fetch(self, name: str, *, scale: int = 1) -> str:
        type(self).calls.append(name)
        if name in type(self).gates:
            type(self).gates.pop(name)()
        if name == "bad":
            raise ZeroDivisionError(name)
        return f"{name} {scale}"


class Together(Each):
    batches: list[list[str]]

    def fetch_many(self, calls: Sequence[Call]) -> list[Any]:
        self.batches.append([one.args[0] for one in calls])
        return [
            ZeroDivisionError("bad") if one.args[0] == "bad" else f"{one.args[0]} {len(calls)}"
            for one in calls
        ]


@pytest.fixture(autouse=True)
def _reset() -> None:
    for job in (Each, Together):
        job.calls, job.gates = [], {}
    Together.batches = []


def test_order_duplicates_and_every_way_to_write_a_call(alias: str) -> None:
    job = Each()
    asked: list[Any] = [
        ("a",),
        {"name": "b"},
        call("c", scale=2),
        ("a",),
        {"name": "a", "scale": 1},
    ]
    for _ in range(2):
        assert job.get_many(asked) == ["a 1", "b 1", "c 2", "a 1", "a 1"]
    assert sorted(Each.calls) == ["a", "b", "c"], "each fetched once"
    assert job.get_many([]) == []
    with pytest.raises(TypeError, match="a call is"):
        job.get_many(["a"])  # type: ignore[list-item]


def test_failed_calls_stand_in_their_places(alias: str) -> None:
    first, second, third, fourth = Each().get_many([("a",), ("bad",), (object(),), ("b",)])
    assert (first, fourth) == ("a 1", "b 1")
    assert isinstance(second, ZeroDivisionError)
    assert isinstance(third, UnkeyableArgument)
    (again,) = Each().get_many([("bad",)])
    assert isinstance(again, FetchUnavailable), "the back-off has not ended"


def test_hits_are_one_round_trip(alias: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Each()
    asked = [(f"n{number}",) for number in range(50)]
    job.get_many(asked)
    store = get_store(alias)
    trips: list[int] = []
    real = store.read_many

    def counted(handles: Any) -> Any:
        trips.append(len(handles))
        return real(handles)

    monkeypatch.setattr(store, "read_many", counted)
    monkeypatch.setattr(store, "read", None)
    assert len(job.get_many(asked)) == 50
    assert trips == [50]


def test_cold_calls_are_one_fetch_many_in_chunks_of_a_hundred(alias: str) -> None:
    names = [(f"n{number:03}",) for number in range(150)]
    values = Together().get_many(names)
    assert values[:1] + values[-1:] == ["n000 100", "n149 50"]
    assert [len(batch) for batch in Together.batches] == [100, 50]


def test_stale_calls_are_one_message(alias: str, shelf: Shelf) -> None:
    job = Together()
    asked = [("a",), ("b",), ("c",)]
    with freeze() as clock:
        job.get_many(asked)
        clock.advance(61)
        assert job.get_many(asked) == ["a 3", "b 3", "c 3"]
        assert [refresh.keys for refresh in shelf.messages] == [3]
        assert job.get_many(asked) == ["a 3", "b 3", "c 3"]
        assert len(shelf.messages) == 1, "asked for once"
        shelf.run_all()
        assert len(Together.batches) == 2
        assert job.get_many(asked) == ["a 3", "b 3", "c 3"]
        assert not shelf.messages


def test_misses_without_fetch_on_miss_are_one_message(alias: str, shelf: Shelf) -> None:
    job = Together(fetch_on_miss=False)
    assert job.get_many([("a",), ("b",)]) == [None, None]
    assert [refresh.keys for refresh in shelf.messages] == [2]
    shelf.run_all()
    assert job.get_many([("a",), ("b",)]) == ["a 2", "b 2"]


def test_too_stale_calls_are_fetched_together(alias: str) -> None:
    job = Together(max_stale=100)
    with freeze() as clock:
        job.get_many([("a",), ("b",)])
        clock.advance(200)
        assert job.get_many([("a",), ("b",), ("c",)]) == ["a 2", "b 2", "c 1"]
    assert Together.batches == [["a", "b"], ["a", "b"]]


def test_too_stale_calls_fall_back_to_what_is_there(alias: str) -> None:
    class Once(Each):
        max_stale = 100

        def fetch(self, name: str, *, scale: int = 1) -> str:
            if name in Each.calls:
                raise OSError
            Each.calls.append(name)
            return name

    with freeze() as clock:
        Once().get_many([("a",)])
        clock.advance(200)
        assert Once().get_many([("a",)]) == ["a"]


def test_a_fetch_many_of_the_wrong_length_is_named(alias: str) -> None:
    class Short(Each):
        def fetch_many(self, calls: Sequence[Call]) -> list[Any]:
            return ["one"]

    found = Short().get_many([("a",), ("b",)])
    assert all(isinstance(one, TypeError) and "fetch_many" in str(one) for one in found)


def test_the_wait_for_others_is_one_for_all_of_them(alias: str) -> None:
    gates = {name: Gate() for name in "abcd"}
    Each.gates = dict(gates)
    slow = [Caller(lambda name=name: Each().get(name)) for name in gates]  # type: ignore[misc]
    for gate in gates.values():
        assert gate.entered.wait(SECONDS)
    started = time.monotonic()
    found = Each(wait=1).get_many([("a",), ("b",), ("x",), ("c",), ("d",)])
    took = time.monotonic() - started
    for gate in gates.values():
        gate.opened.set()
    for caller in slow:
        caller.result()
    assert found[2] == "x 1"
    assert all(isinstance(one, FetchUnavailable) for one in (*found[:2], *found[3:]))
    assert 0.9 < took < 2.9, "not once for each"


def test_it_waits_for_a_flight_and_takes_its_answer(alias: str) -> None:
    gate = Each.gates["a"] = Gate()
    first = Caller(lambda: Each().get("a"))
    assert gate.entered.wait(SECONDS)
    many = Caller(lambda: Each().get_many([("a",), ("b",), ("a",)])).blocked()
    gate.opened.set()
    assert first.result() == "a 1"
    assert many.result() == ["a 1", "b 1", "a 1"]
    assert sorted(Each.calls) == ["a", "b"]


def test_two_of_them_that_overlap_the_other_way_round_both_end(alias: str) -> None:
    gates = {name: Gate() for name in "ab"}
    Each.gates = dict(gates)
    first = Caller(lambda: Each().get_many([("a",), ("b",)]))
    second = Caller(lambda: Each().get_many([("b",), ("a",)]))
    for gate in gates.values():
        gate.opened.set()
    assert first.result() == ["a 1", "b 1"]
    assert second.result() == ["b 1", "a 1"]
    assert sorted(Each.calls) == ["a", "b"]


def test_one_that_raises_leaves_no_flight_behind(local: str) -> None:
    class Stop(BaseException):
        pass

    class Stopping(AsyncCacheJob[str]):
        wait = 2
        stopped = False

        def fetch(self, name: str) -> str:
            if not Stopping.stopped:
                Stopping.stopped = True
                raise Stop
            return name

    with pytest.raises(Stop):
        Stopping().get_many([("a",), ("b",)])
    assert Stopping().get_many([("a",), ("b",)]) == ["a", "b"]
    assert Stopping().explain("a").refresh is None
