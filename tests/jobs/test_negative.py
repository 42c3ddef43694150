"""P9: "does not exist" is an answer, cached for ``negative_ttl``, and different from a failure."""

from __future__ import annotations

from typing import Any

import pytest

from async_cache import MISSING, AsyncCacheJob
from async_cache.signals import refresh_failed
from async_cache.testing import freeze
from tests.jobs.support import Caller, Gate, Shelf, heard


class Gone(LookupError):
    """What the source says of what it does not have."""


class Source(AsyncCacheJob[Any]):
    ttl = 60
    jitter = 0.0
    negative = (Gone,)
    negative_ttl = 30
    value: Any = None
    calls = 0
    gate: Gate | None = None

    def fetch(self, name: str = "bob") -> Any:
        Source.calls += 1
        found = Source.value
        if Source.gate is not None:
            Source.gate()
        if found is None:
            raise Gone(name, 1)
        return found


@pytest.fixture(autouse=True)
def _reset() -> None:
    Source.value = None
    Source.calls = 0
    Source.gate = None


def test_p9_it_is_raised_on_a_hit_as_on_a_miss(each_alias: str) -> None:
    job = Source()
    with heard(refresh_failed) as failures:
        for _ in range(3):
            with pytest.raises(Gone) as caught:
                job.get("bob")
            assert caught.value.args == ("bob", 1)
            assert type(caught.value) is Gone
        (found,) = job.get_many([("bob",)])
    assert type(found) is Gone
    assert Source.calls == 1
    assert not failures, "an answer, no failure"
    state = job.explain("bob")
    assert state.negative
    assert state.failures == 0
    assert job.peek("bob") is MISSING


def test_p9_it_has_no_grace(alias: str, shelf: Shelf) -> None:
    job = Source()
    with freeze() as clock:
        with pytest.raises(Gone):
            job.get("bob")
        clock.advance(29)
        with pytest.raises(Gone):
            job.get("bob")
        assert Source.calls == 1
        Source.value = "there"
        clock.advance(2)
        assert job.get("bob") == "there"
    assert not shelf.messages


@pytest.mark.parametrize("verb", ["invalidate", "delete", "clear"])
def test_p4_what_is_invalidated_is_asked_for_again(alias: str, verb: str) -> None:
    """Served once more, it would deny what has just been created."""
    job = Source()
    with pytest.raises(Gone):
        job.get("bob")
    Source.value = "there"
    getattr(job, verb)(*(() if verb == "clear" else ("bob",)))
    assert job.get("bob") == "there"


def test_p4_an_invalidation_during_its_fetch_makes_it_a_miss(alias: str) -> None:
    job = Source()
    gate = Source.gate = Gate()
    first = Caller(lambda: job.get("bob"))
    assert gate.entered.wait(10)
    Source.gate, Source.value = None, "there"
    job.invalidate("bob")
    gate.opened.set()
    with pytest.raises(Gone):
        first.result()
    assert job.get("bob") == "there"
    assert job.get_many([("bob",)]) == ["there"]


def test_p9_it_replaces_a_value(alias: str, shelf: Shelf) -> None:
    job = Source()
    with freeze() as clock:
        Source.value = "there"
        assert job.get("bob") == "there"
        Source.value = None
        clock.advance(61)
        assert job.get("bob") == "there"
        shelf.run_all()
        with pytest.raises(Gone):
            job.get("bob")


def test_waiters_receive_it_too(alias: str) -> None:
    job = Source()
    gate = Source.gate = Gate()
    first = Caller(lambda: job.get("bob"))
    assert gate.entered.wait(10)
    second = Caller(lambda: job.get("bob")).blocked()
    gate.opened.set()
    for caller in (first, second):
        with pytest.raises(Gone):
            caller.result()
    assert Source.calls == 1


def test_negative_ttl_zero_stores_none(alias: str) -> None:
    job = Source(negative_ttl=0)
    for _ in range(2):
        with pytest.raises(Gone):
            job.get("bob")
    assert Source.calls == 2


def test_subclasses_count_and_other_errors_do_not(alias: str) -> None:
    class Deeper(Gone):
        pass

    class Mixed(AsyncCacheJob[Any]):
        negative = Gone
        calls = 0

        def fetch(self, kind: str) -> Any:
            Mixed.calls += 1
            raise DeeperStill("x") if kind == "deeper" else LookupError("x")

    with pytest.raises(DeeperStill):
        Mixed().get("deeper")
    with pytest.raises(DeeperStill):
        Mixed().get("deeper")
    assert Mixed.calls == 1
    with pytest.raises(LookupError):
        Mixed().get("other")
    assert Mixed().explain("other").failures == 1


class DeeperStill(Gone):
    """A special case of it."""


def test_max_stale_meets_a_negative_answer(alias: str) -> None:
    job = Source(max_stale=100)
    with freeze() as clock:
        Source.value = "there"
        job.get("bob")
        job.get("eve")
        Source.value = None
        clock.advance(200)
        with pytest.raises(Gone):
            job.get("bob")
        (found,) = job.get_many([("eve",)])
        assert type(found) is Gone
