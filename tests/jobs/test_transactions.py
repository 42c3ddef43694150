"""P6 committed data only: reads, sets and invalidations inside transactions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import transaction
from django.test import TestCase

from async_cache import (
    MISSING,
    AsyncCacheJob,
    QuerySetGetJob,
    Status,
    invalidate_tags,
)
from async_cache.testing import capture_refreshes
from tests.app.models import Author
from tests.jobs.support import Caller, Gate, Shelf

DATABASES = ["default", "other", "postgres"]
pytestmark = pytest.mark.django_db(databases=DATABASES, transaction=True)


class Rollback(Exception):
    """Ends a block."""


@contextmanager
def rolled_back(using: str) -> Iterator[None]:
    """Run the block in an ``atomic`` that is rolled back at its end."""
    with suppress(Rollback), transaction.atomic(using):
        yield
        raise Rollback


class Names(AsyncCacheJob[Any]):
    """The names in one database; reads through the transaction of the caller."""

    ttl = 600
    calls = 0
    gate: Gate | None = None

    def fetch(self, using: str = "postgres") -> Any:
        Names.calls += 1
        names = list(Author.objects.using(using).values_list("name", flat=True))
        if Names.gate is not None:
            Names.gate()
        return names

    def tags(self, using: str = "postgres") -> tuple[str, ...]:
        return ("authors",)


@pytest.fixture(autouse=True)
def _reset() -> None:
    Names.calls = 0
    Names.gate = None


def add(name: str, using: str = "postgres") -> None:
    Author.objects.using(using).create(name=name)


def isolate(level: str) -> None:
    with transaction.get_connection("postgres").cursor() as cursor:
        cursor.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")


def test_p6_a_cold_read_is_stored_on_commit(alias: str, shelf: Shelf) -> None:
    job = Names()
    with transaction.atomic("postgres"):
        add("new")
        assert job.get() == ["new"]
        assert Caller(job.peek).result() is MISSING, "nobody else sees it yet"
        assert job.get() == ["new"]
        assert Names.calls == 1, "kept for this transaction"
    assert job.peek() == ["new"]
    assert not shelf.messages


def test_p6_never_after_a_rollback(alias: str, shelf: Shelf) -> None:
    job = Names()
    with rolled_back("postgres"):
        add("never")
        assert job.get() == ["never"]
    assert job.peek() is MISSING
    assert job.get() == []
    assert not shelf.messages


def test_p6_never_after_a_savepoint_s_rollback(alias: str, shelf: Shelf) -> None:
    job = Names()
    with transaction.atomic("postgres"):
        with rolled_back("postgres"):
            add("never")
            assert job.get() == ["never"]
        assert job.get() == [], "not even for the rest of the transaction"
    assert job.peek() == []


def test_p6_a_released_savepoint_s_value_is_stored_with_the_whole(alias: str) -> None:
    job = Names()
    with transaction.atomic("postgres"):
        with transaction.atomic("postgres"):
            add("inner")
            job.get()
        assert job.peek() == ["inner"], "this transaction's own"
    assert job.peek() == ["inner"]


def test_p6_a_snapshot_s_value_is_not_stored_but_a_refresh_is_queued(
    alias: str, shelf: Shelf
) -> None:
    job = Names()
    with transaction.atomic("postgres"):
        isolate("REPEATABLE READ")
        assert job.get() == []
        Caller(lambda: add("meanwhile")).result()
        assert job.get() == []
    assert job.peek() is MISSING
    assert len(shelf.messages) == 1
    shelf.run_all()
    assert job.peek() == ["meanwhile"]


def test_p6_an_invalidation_meanwhile_keeps_it_out(alias: str, shelf: Shelf) -> None:
    for verb in ("delete", "clear", "invalidate", "set"):
        shelf.messages.clear()
        job = Names(version=verb)
        with transaction.atomic("postgres"):
            before = job.get()

            def meanwhile(verb: str = verb, job: Names = job) -> None:
                add(verb)
                if verb == "set":
                    job.set(["set"])
                else:
                    getattr(job, verb)()

            Caller(meanwhile).result()
        if verb == "set":
            assert job.peek() == ["set"]
        else:
            assert job.peek() is MISSING
            assert shelf.messages, "a refresh is queued instead"
        shelf.run_all()
        assert job.get() != before


def test_p6_an_invalidation_takes_effect_on_commit(alias: str, shelf: Shelf) -> None:
    job = Names()
    for verb in ("invalidate", "delete", "clear", "tags"):
        job.refresh()
        held = job.peek()
        with transaction.atomic("postgres"):
            add(verb)
            invalidate_tags("authors") if verb == "tags" else getattr(job, verb)()
            own = job.get()
            assert verb in own, "the writing transaction does not read what it has invalidated"
            many: list[Any] = job.get_many([()])
            assert verb in many[0]
            assert job.peek() is MISSING
            assert Caller(job.peek).result() == held, "the others do, until it commits"
        state = job.explain().status
        assert state is (Status.MISS if verb in ("delete", "clear") else Status.STALE)
        shelf.run_all()
        assert verb in job.get()


def test_p6_peek_in_the_writing_transaction(alias: str) -> None:
    job = Names()
    job.get()
    with transaction.atomic("postgres"):
        job.invalidate()
        assert job.peek() is MISSING
    assert job.peek() == []


def test_p6_an_invalidation_is_rolled_back_with_its_block(alias: str) -> None:
    job = Names()
    job.get()
    with transaction.atomic("postgres"):
        with rolled_back("postgres"):
            job.delete()
        assert job.get() == []
        assert Names.calls == 1, "the cached value serves again"
    assert job.explain().status is Status.FRESH


def test_p6_set_is_this_transaction_s_until_it_commits(alias: str) -> None:
    job = Names()
    job.get()
    with transaction.atomic("postgres"):
        job.invalidate()
        job.set(["set"])
        assert job.get() == job.peek() == ["set"]
        assert job.get_many([()]) == [["set"]]
        assert Caller(job.get).result() == []
    assert job.get() == ["set"]
    with rolled_back("postgres"):
        job.set(["never"])
    assert job.get() == ["set"]


def test_p6_who_waits_for_a_flight_in_a_transaction_fetches_for_himself(alias: str) -> None:
    """The leader reads what it has not committed: that is for nobody else."""
    job = Names()
    gate = Names.gate = Gate()

    def writer() -> Any:
        with transaction.atomic("postgres"):
            add("not yet")
            found = job.get()
            Names.gate = None
            raise Rollback(found)

    first = Caller(writer)
    assert gate.entered.wait(10)
    second = Caller(job.get).blocked()
    Names.gate = None
    gate.opened.set()
    with pytest.raises(Rollback, match="not yet"):
        first.result()
    assert second.result() == []
    assert job.get() == []


def test_p6_two_databases_both_must_commit(alias: str, shelf: Shelf) -> None:
    job = Names()
    with rolled_back("postgres"), transaction.atomic("other"):
        job.get()
    assert job.peek() is MISSING
    with transaction.atomic("postgres"), transaction.atomic("other"):
        job.get()
    shelf.run_all()
    assert job.peek() == [], "one of them is SQLite: a refresh is queued"


def test_p6_an_invalidation_survives_one_of_two_rollbacks(alias: str) -> None:
    job = Names()
    job.get()
    with rolled_back("other"), transaction.atomic("postgres"):
        add("kept")
        job.delete()
    assert job.peek() is MISSING


def test_p6_a_negative_answer_is_stored_on_commit_only(alias: str) -> None:
    job = QuerySetGetJob(Author.objects.using("postgres"))
    with rolled_back("postgres"):
        Author.objects.using("postgres").all().delete()
        with pytest.raises(Author.DoesNotExist):
            job.get(name="bob")
    assert not job.explain(name="bob").negative


def test_p6_do_not_store_holds_in_a_transaction_too(alias: str) -> None:
    class Secret(AsyncCacheJob[str]):
        def fetch(self, *, ctx: Any) -> str:
            ctx.do_not_store()
            return "secret"

    with transaction.atomic("postgres"):
        assert Secret().get() == "secret"
    assert Secret().peek() is MISSING


def test_p6_a_stale_read_in_a_transaction_is_refreshed_by_others(alias: str, shelf: Shelf) -> None:
    job = Names(ttl=0)
    job.get()
    with transaction.atomic("postgres"):
        add("mine")
        assert job.get() == []
    assert len(shelf.messages) == 1


def test_p6_coroutines_beneath_a_transaction(alias: str) -> None:
    class Awaited(AsyncCacheJob[Any]):
        async def fetch(self) -> Any:
            query = Author.objects.using("postgres").values_list("name", flat=True)
            return await sync_to_async(list)(query)  # type: ignore[call-arg]

    jobs: list[Any] = [Names(), Awaited()]
    for job in jobs:
        async_to_sync(job.aget)()
        with rolled_back("postgres"):
            add("never")
            job.invalidate()
            assert async_to_sync(job.aget)() == ["never"]
            assert async_to_sync(job.aget_many)([()]) == [["never"]]
        assert async_to_sync(job.aget)() == []
        job.delete()
        with rolled_back("postgres"):
            add("never")
            assert async_to_sync(job.aget)() == ["never"]
        assert job.peek() is MISSING


def test_p6_atomic_requests(alias: str, client: Any, settings: Any) -> None:
    """A view that fails has stored nothing of what it wrote and read."""
    settings.ROOT_URLCONF = "tests.jobs.urls"
    connection = transaction.get_connection("postgres")
    connection.settings_dict["ATOMIC_REQUESTS"] = True
    client.raise_request_exception = False
    try:
        assert client.get("/names/?fail=1").status_code == 500
        assert Names().peek() is MISSING
        assert client.get("/names/").json() == ["from the view"]
    finally:
        connection.settings_dict["ATOMIC_REQUESTS"] = False
    assert Names().peek() == ["from the view"]


def test_a_test_case_s_own_transaction_is_none(alias: str) -> None:
    class Case(TestCase):
        databases = {"default", "other", "postgres"}  # noqa: RUF012

        def test(self) -> None:
            add("kept")
            assert Names().get() == ["kept"]
            assert Caller(Names().peek).result() == ["kept"], "stored at once"

    with capture_refreshes() as seen:
        result = Case("test").run()
    assert result is not None
    assert not result.errors
    assert not result.failures, result.failures
    assert len(seen.committed) == 1
