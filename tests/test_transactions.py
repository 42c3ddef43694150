"""Transactions on SQLite: who is in one, what runs after its commit, what ends with it."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import IntegrityError, connection, connections, transaction
from django.http import HttpRequest, HttpResponse
from django.test import Client, TestCase
from django.urls import path

from async_cache import ledger, transactions
from async_cache.entry import MISSING
from tests.app.models import Author, Book
from tests.transaction_programs import check_programs

ALIASES = ["default", "other"]
transactional = pytest.mark.django_db(databases=ALIASES, transaction=True)


class Undo(Exception):
    """Leaves a block by the exception path."""


class Payload:
    """A value that can be watched."""


@contextmanager
def undone(using: str = "default") -> Iterator[None]:
    """Open a block that ends by an exception."""
    with suppress(Undo), transaction.atomic(using):
        yield
        raise Undo


def now() -> transactions.Transaction:
    found = transactions.current()
    assert found is not None
    return found


@pytest.fixture
def ran() -> list[str]:
    return []


@pytest.fixture
def manual() -> Iterator[None]:
    transaction.set_autocommit(False)
    try:
        yield
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)


# --- who is in a transaction ----------------------------------------------------------------------


@transactional
def test_only_an_atomic_block_is_a_transaction() -> None:
    assert transactions.current() is None
    with transaction.atomic():
        assert now().hooks
    assert transactions.current() is None
    with transaction.atomic("other", savepoint=False):
        assert now().hooks
    assert transactions.current() is None


@transactional
def test_a_connection_that_was_never_opened_is_in_no_transaction() -> None:
    connections["other"].close()
    assert connections["other"].autocommit in (True, False)
    assert transactions.current() is None


@transactional
def test_another_thread_is_not_in_this_transaction() -> None:
    seen: list[Any] = []

    def look() -> None:
        seen.append((transactions.current(), transactions.active(), transactions.held("k")))

    with transaction.atomic():
        transactions.hold("k", b"1")
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        assert transactions.held("k") == b"1"
    assert seen == [(None, False, MISSING)]


@transactional
def test_autocommit_off_by_hand_has_no_hooks(manual: None) -> None:
    found = now()
    assert not found.hooks
    with pytest.raises(transaction.TransactionManagementError, match="Autocommit is off"):
        found.on_commit(lambda: None)
    with transaction.atomic():
        # This block's end commits nothing.
        assert not now().hooks
        transactions.hold("k", b"1")
        assert not transactions.note_invalidated(["n"])
        assert not transactions.active()
        now().on_any_commit(lambda: None)
        assert connection.run_on_commit == []


@transactional
def test_an_invalidation_reaches_the_database_that_has_hooks(manual: None, ran: list[str]) -> None:
    with transaction.atomic("other"):
        found = now()
        assert not found.hooks
        found.on_any_commit(lambda: ran.append("other"))
    assert ran == ["other"]


# --- callbacks ------------------------------------------------------------------------------------


@transactional
def test_a_callback_runs_once_after_the_commit(ran: list[str]) -> None:
    with transaction.atomic():
        assert now().on_commit(lambda: ran.append("all"))
        now().on_any_commit(lambda: ran.append("any"))
        with transaction.atomic():
            assert now().on_commit(lambda: ran.append("inner"))
        assert ran == []
    assert ran == ["all", "any", "inner"]
    with transaction.atomic():
        pass
    assert len(ran) == 3


@transactional
def test_a_rollback_takes_the_callbacks_away(ran: list[str]) -> None:
    with undone():
        now().on_commit(lambda: ran.append("all"))
        now().on_any_commit(lambda: ran.append("any"))
    with transaction.atomic():
        pass
    assert ran == []


@transactional
def test_a_savepoint_takes_only_its_own_callbacks(ran: list[str]) -> None:
    with transaction.atomic():
        now().on_commit(lambda: ran.append("before"))
        with undone():
            now().on_commit(lambda: ran.append("inside"))
            now().on_any_commit(lambda: ran.append("inside"))
        now().on_commit(lambda: ran.append("after"))
    assert ran == ["before", "after"]


@transactional
def test_a_block_without_savepoint_takes_the_whole_transaction(ran: list[str]) -> None:
    with transaction.atomic():
        now().on_commit(lambda: ran.append("outer"))
        transactions.hold("k", b"1")
        with suppress(Undo), transaction.atomic(savepoint=False):
            raise Undo
        assert not now().read_committed()
        now().on_commit(lambda: ran.append("doomed"))
    assert ran == []
    assert not transactions.active()


@transactional
def test_a_durable_block_is_a_transaction(ran: list[str]) -> None:
    with transaction.atomic(durable=True):
        now().on_commit(lambda: ran.append("durable"))
        with pytest.raises(RuntimeError), transaction.atomic(durable=True):
            pytest.fail("not entered")
    assert ran == ["durable"]


@transactional
@pytest.mark.parametrize("first", ALIASES)
def test_two_databases_have_to_commit_both(first: str, ran: list[str]) -> None:
    second = ALIASES[1 - ALIASES.index(first)]
    with transaction.atomic(first):
        with transaction.atomic(second):
            now().on_commit(lambda: ran.append("all"))
            now().on_any_commit(lambda: ran.append("any"))
        assert ran == ["any"]
    assert sorted(ran) == ["all", "any", "any"]


@transactional
@pytest.mark.parametrize("first", ALIASES)
def test_one_of_two_databases_rolled_back(first: str, ran: list[str]) -> None:
    second = ALIASES[1 - ALIASES.index(first)]
    with transaction.atomic(first):
        with undone(second):
            now().on_commit(lambda: ran.append("all"))
            now().on_any_commit(lambda: ran.append("any"))
        assert ran == []
    # The value may be of the lost half; the invalidation may be of the other.
    assert ran == ["any"]


@transactional
def test_the_outer_database_rolled_back_after_the_inner_commit(ran: list[str]) -> None:
    with undone("default"), transaction.atomic("other"):
        now().on_commit(lambda: ran.append("all"))
        now().on_any_commit(lambda: ran.append("any"))
    assert ran == ["any"]


@transactional
def test_a_failing_callback_breaks_neither_the_commit_nor_the_others(
    ran: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ValueError

    with transaction.atomic():
        Author.objects.create(name="kept")
        now().on_commit(fail)
        now().on_any_commit(fail)
        transaction.on_commit(lambda: ran.append("theirs"))
    assert Author.objects.filter(name="kept").exists()
    assert ran == ["theirs"]
    assert [record.name for record in caplog.records] == ["django.db.backends.base"] * 2


@transactional
def test_a_transaction_that_is_over_takes_no_callback(ran: list[str]) -> None:
    with transaction.atomic():
        old = now()
    assert not old.on_commit(lambda: ran.append("old"))
    old.on_any_commit(lambda: ran.append("old"))
    with transaction.atomic():
        assert not old.on_commit(lambda: ran.append("old"))
    assert ran == []


@transactional
def test_past_the_cap_callbacks_for_storing_are_refused_and_invalidations_are_not(
    ran: list[str],
) -> None:
    with transaction.atomic():
        for _ in range(transactions.MAX_HOOKS):
            transaction.on_commit(lambda: None)
        assert not now().on_commit(lambda: ran.append("store"))
        now().on_any_commit(lambda: ran.append("invalidate"))
    assert ran == ["invalidate"]


# --- savepoints made by hand ----------------------------------------------------------------------


@transactional
def test_a_savepoint_made_by_hand_takes_what_was_read_under_it(ran: list[str]) -> None:
    with transaction.atomic():
        now().on_commit(lambda: ran.append("before"))
        transactions.hold("before", b"1")
        sid = transaction.savepoint()
        now().on_commit(lambda: ran.append("under"))
        now().on_any_commit(lambda: ran.append("invalidated"))
        transactions.hold("under", b"2")
        transactions.note_invalidated(["n"])
        inner = transaction.savepoint()
        now().on_commit(lambda: ran.append("deeper"))
        transaction.savepoint_commit(inner)
        transaction.savepoint_rollback(sid)
        now().on_commit(lambda: ran.append("after"))
        assert transactions.held("before") == b"1"
        assert transactions.held("under") is MISSING
        # Too many invalidations do no harm, one too few does.
        assert transactions.is_invalidated(["n"])
    assert ran == ["before", "invalidated", "after"]


@transactional
def test_a_later_savepoint_made_by_hand_takes_nothing_earlier(ran: list[str]) -> None:
    with transaction.atomic():
        with transaction.atomic():
            now().on_commit(lambda: ran.append("kept"))
            transactions.hold("k", b"1")
        sid = transaction.savepoint()
        transaction.savepoint_rollback(sid)
        assert transactions.held("k") == b"1"
    assert ran == ["kept"]


# --- records --------------------------------------------------------------------------------------


@transactional
def test_nothing_is_recorded_outside_a_transaction() -> None:
    transactions.hold("k", b"1")
    assert not transactions.note_invalidated(["n"])
    assert not transactions.active()
    assert transactions.held("k") is MISSING
    assert not transactions.is_invalidated(["n"])


@transactional
def test_records_end_with_the_commit() -> None:
    with transaction.atomic():
        transactions.hold("k", None)
        assert transactions.note_invalidated(["n"])
        assert transactions.active()
        assert transactions.held("k") is None
        assert transactions.is_invalidated(iter(["m", "n"]))
        assert not transactions.is_invalidated(["m"])
    assert not transactions.active()
    with transaction.atomic():
        assert transactions.held("k") is MISSING
        assert not transactions.is_invalidated(["n"])
        transactions.note_invalidated(["m"])
        assert transactions.held("k") is MISSING
        assert not transactions.is_invalidated(["n"])


@transactional
def test_records_end_with_the_rollback() -> None:
    with undone():
        transactions.hold("k", b"1")
        transactions.note_invalidated(["n"])
    with transaction.atomic():
        assert not transactions.active()


@transactional
def test_records_end_with_their_savepoint_and_those_before_come_back() -> None:
    with transaction.atomic():
        transactions.hold("k", b"outer", ["n"])
        with undone():
            transactions.note_invalidated(["n"])
            assert transactions.held("k") is MISSING
            transactions.hold("k", b"inner", ["n"])
            assert transactions.held("k") == b"inner"
        assert transactions.held("k") == b"outer"
        assert not transactions.is_invalidated(["n"])
        with transaction.atomic():
            transactions.hold("k", b"released", ["n"])
        assert transactions.held("k") == b"released"


@transactional
def test_a_second_invalidation_under_a_deeper_savepoint_hides_what_was_held_between() -> None:
    with transaction.atomic():
        assert transactions.note_invalidated(["n"])
        transactions.hold("k", b"1", ["n"])
        assert transactions.held("k") == b"1"
        with undone():
            assert not transactions.note_invalidated(["n"])
            assert transactions.held("k") is MISSING
        assert transactions.held("k") == b"1"
        assert not transactions.note_invalidated(["n"])
        assert transactions.held("k") is MISSING
        assert transactions.is_invalidated(["n"])


@transactional
def test_a_value_of_two_databases_lives_while_neither_is_rolled_back() -> None:
    with transaction.atomic("default"):
        with transaction.atomic("other"):
            transactions.hold("committed", b"1")
        assert transactions.held("committed") == b"1"
        with transaction.atomic("other"):
            transactions.hold("two", b"2")
            with undone("other"):
                transactions.hold("lost", b"3")
                transactions.note_invalidated(["n"])
            assert transactions.held("two") == b"2"
            assert transactions.held("lost") is MISSING
            # Written on the connection that was not rolled back, for all we know.
            assert transactions.is_invalidated(["n"])
        with undone("other"):
            transactions.hold("two", b"4")
        assert transactions.held("two") == b"2"
    assert not transactions.active()


@transactional
def test_a_rollback_frees_what_was_held_at_once() -> None:
    gc.disable()  # the promise is about Django dropping the hook, not about a later collection
    try:
        for block in (undone, transaction.atomic):
            payload = Payload()
            seen = weakref.ref(payload)
            with block():
                transactions.hold("k", payload)
                del payload
                assert seen() is not None
            assert seen() is None
    finally:
        gc.enable()


@transactional
def test_a_newer_value_frees_the_one_it_replaces() -> None:
    with transaction.atomic():
        payload = Payload()
        seen = weakref.ref(payload)
        transactions.hold("k", payload)
        del payload
        transactions.hold("k", b"2")
        assert seen() is None
        assert transactions.held("k") == b"2"


@transactional
def test_a_copy_of_the_hooks_keeps_no_record_alive() -> None:
    """Django's list decides, not who else refers to what was in it."""
    with transaction.atomic():
        with undone():
            transactions.hold("k", b"1")
            transactions.note_invalidated(["n"])
            copy = list(connection.run_on_commit)
        assert len(copy) == 2
        assert not transactions.active()
        assert transactions.held("k") is MISSING
        assert not transactions.is_invalidated(["n"])


@transactional
def test_a_closed_connection_ends_everything(ran: list[str]) -> None:
    with transaction.atomic():
        now().on_commit(lambda: ran.append("before"))
        transactions.hold("k", b"1")
        transactions.note_invalidated(["n"])
        connection.close()
        assert not transactions.active()
        assert transactions.current() is not None
        assert not now().read_committed()
        assert not now().on_commit(lambda: ran.append("after"))
        now().on_any_commit(lambda: ran.append("after"))
        transactions.hold("k", b"2")
        assert not transactions.note_invalidated(["n"])
        assert not transactions.active()
    assert transactions.current() is None
    with transaction.atomic():
        Author.objects.count()
        assert not transactions.active()
    assert ran == []


@transactional
def test_one_of_two_connections_closed(ran: list[str]) -> None:
    with transaction.atomic("default"), transaction.atomic("other"):
        now().on_commit(lambda: ran.append("all"))
        now().on_any_commit(lambda: ran.append("any"))
        transactions.hold("k", b"1")
        transactions.note_invalidated(["n"])
        connections["other"].close()
        assert transactions.held("k") is MISSING
        assert transactions.is_invalidated(["n"])
        assert not now().on_commit(lambda: ran.append("late"))
    assert ran == ["any"]


@transactional
def test_a_database_error_in_a_savepoint() -> None:
    Author.objects.create(name="a", email="a@example.org")
    with transaction.atomic():
        transactions.hold("outer", b"1")
        with suppress(IntegrityError), transaction.atomic():
            transactions.hold("inner", b"2")
            Author.objects.create(name="b", email="a@example.org")
            pytest.fail("not reached")
        assert transactions.held("outer") == b"1"
        assert transactions.held("inner") is MISSING
        assert Author.objects.count() == 1


@transactional
def test_a_commit_that_fails(ran: list[str]) -> None:
    def work() -> None:
        with transaction.atomic():
            now().on_commit(lambda: ran.append("all"))
            now().on_any_commit(lambda: ran.append("any"))
            transactions.hold("k", b"1")
            # Foreign keys are deferred: only the commit finds out.
            Book.objects.create(title="An orphan", author_id=99)

    with pytest.raises(IntegrityError):
        work()
    assert ran == []
    assert not transactions.active()


@transactional
def test_sqlite_is_not_read_committed() -> None:
    with transaction.atomic():
        assert not now().read_committed()


# --- bounds ---------------------------------------------------------------------------------------


@transactional
def test_past_the_cap_every_name_counts_as_invalidated_until_the_end() -> None:
    names = [f"n{number}" for number in range(ledger.MAX_NAMES)]
    with transaction.atomic():
        transactions.note_invalidated(names)
        assert not transactions.is_invalidated(["unknown"])
        with undone():
            assert transactions.note_invalidated(["one more"])
            assert transactions.is_invalidated(["unknown"])
        assert transactions.is_invalidated(["unknown"])
        transactions.hold("k", b"1", ["unknown"])
        assert transactions.held("k") == b"1"
        transactions.note_invalidated(["another"])
        assert transactions.held("k") is MISSING
    with transaction.atomic():
        assert not transactions.is_invalidated(["unknown"])


@transactional
def test_past_the_cap_the_oldest_value_goes() -> None:
    with transaction.atomic():
        first = Payload()
        seen = weakref.ref(first)
        transactions.hold("first", first)
        del first
        for number in range(ledger.MAX_HELD - 1):
            transactions.hold(f"k{number}", b"1")
        assert transactions.held("first") is seen()
        transactions.hold("last", b"1")
        assert transactions.held("first") is MISSING
        assert seen() is None
        assert transactions.held("k0") == b"1"
        assert transactions.held("last") == b"1"


@transactional
def test_past_the_cap_of_versions_the_oldest_goes() -> None:
    def nest(depth: int) -> None:
        if depth == 0:
            return
        transactions.hold("k", depth)
        with undone():
            nest(depth - 1)
        assert transactions.held("k") == (depth if depth <= ledger.MAX_VERSIONS else MISSING)

    with transaction.atomic():
        nest(ledger.MAX_VERSIONS + 1)


@transactional
def test_past_the_cap_of_savepoints_nothing_is_held_and_no_invalidation_is_lost() -> None:
    with transaction.atomic():
        for _ in range(ledger.MAX_FRAMES):
            sid = transaction.savepoint()
            transactions.hold("k", b"1")
            transaction.savepoint_commit(sid)
        transaction.savepoint()
        transactions.hold("late", b"1")
        assert transactions.held("late") is MISSING
        transactions.note_invalidated(["n"])
        assert transactions.is_invalidated(["n"])


@transactional
def test_idle_is_cheap() -> None:
    """A bound far above the real cost, which `make bench` tells."""
    with transaction.atomic():
        transactions.hold("k", b"1")
    assert not transactions.active()
    took = []
    for _ in range(100):  # the best of many: the machine is busy with other things too
        begun = time.perf_counter()
        for _ in range(100):
            transactions.active()
        took.append(time.perf_counter() - begun)
    assert min(took) < 100 * 3e-6


# --- test cases, requests, coroutines -------------------------------------------------------------


class InsideTestCase(TestCase):
    """TestCase's own blocks are no transaction; a user's inside them is one."""

    databases = {"default", "other"}  # noqa: RUF012

    def setUp(self) -> None:
        self.ran: list[str] = []

    def test_the_test_itself_is_in_no_transaction(self) -> None:
        assert connection.in_atomic_block
        assert transactions.current() is None
        transactions.hold("k", b"1")
        assert not transactions.note_invalidated(["n"])
        assert not transactions.active()

    def test_captured_callbacks_run_once(self) -> None:
        with self.captureOnCommitCallbacks(execute=True) as callbacks:
            with transaction.atomic():
                assert now().on_commit(lambda: self.ran.append("all"))
                now().on_any_commit(lambda: self.ran.append("any"))
                transactions.hold("k", b"1")
                transactions.note_invalidated(["n"])
            assert self.ran == []
        assert self.ran == ["all", "any"]
        for callback in callbacks:
            callback()
        assert self.ran == ["all", "any"]
        assert not transactions.active()

    def test_captured_on_two_databases(self) -> None:
        with self.captureOnCommitCallbacks(using="default", execute=True):
            with (
                self.captureOnCommitCallbacks(using="other", execute=True),
                transaction.atomic("default"),
                transaction.atomic("other"),
            ):
                now().on_commit(lambda: self.ran.append("all"))
            assert self.ran == []
        assert self.ran == ["all"]

    def test_a_rolled_back_block_leaves_nothing_to_capture(self) -> None:
        with self.captureOnCommitCallbacks(execute=True) as callbacks, undone():
            now().on_commit(lambda: self.ran.append("all"))
        assert (callbacks, self.ran) == ([], [])

    def test_records_end_with_the_users_block(self) -> None:
        with transaction.atomic():
            transactions.hold("k", b"1")
            transactions.note_invalidated(["n"])
            with transaction.atomic():
                assert transactions.held("k") == b"1"
        assert not transactions.active()
        with transaction.atomic():
            # The hook of the first block is still in Django's list.
            assert not transactions.active()
            transactions.note_invalidated(["m"])
            assert not transactions.is_invalidated(["n"])
            assert transactions.held("k") is MISSING

    def test_one_atomic_object_used_twice(self) -> None:
        block = transaction.atomic()
        with block:
            transactions.hold("k", b"1")
            transactions.note_invalidated(["n"])
        with block:
            assert transactions.held("k") is MISSING
            assert not transactions.is_invalidated(["n"])

    def test_an_outermost_block_without_savepoint_holds_nothing(self) -> None:
        block = transaction.atomic(savepoint=False)
        with block:
            transactions.hold("k", b"1")
            transactions.note_invalidated(["n"])
            assert transactions.is_invalidated(["n"])
            assert transactions.held("k") is MISSING
        assert not transactions.active()

    def test_durable(self) -> None:
        with transaction.atomic(durable=True):
            assert transactions.current() is not None


def record_view(request: HttpRequest) -> HttpResponse:
    found = now()
    found.on_commit(lambda: seen_in_requests.append("all"))
    found.on_any_commit(lambda: seen_in_requests.append("any"))
    transactions.note_invalidated(["n"])
    assert transactions.is_invalidated(["n"])
    assert async_to_sync(coroutine_view)() == (True, True)
    if request.GET.get("fail"):
        raise Undo
    return HttpResponse("done")


async def coroutine_view() -> tuple[bool, bool]:
    inside = await sync_to_async(transactions.current)() is not None
    return transactions.is_invalidated(["n"]), inside


@transaction.non_atomic_requests
def plain_view(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(transactions.current()))


urlpatterns = [path("record", record_view), path("plain", plain_view)]
seen_in_requests: list[str] = []


@pytest.mark.django_db(transaction=True)
@pytest.mark.urls(__name__)
def test_atomic_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    seen_in_requests.clear()
    monkeypatch.setitem(connections["default"].settings_dict, "ATOMIC_REQUESTS", True)
    client = Client()
    assert client.get("/record").content == b"done"
    assert seen_in_requests == ["all", "any"]
    with pytest.raises(Undo):
        client.get("/record?fail=1")
    assert seen_in_requests == ["all", "any"]
    assert client.get("/plain").content == b"None"
    assert not transactions.active()


@transactional
@pytest.mark.parametrize("call", [async_to_sync, lambda function: lambda: asyncio.run(function())])
def test_a_coroutine_beneath_a_transaction_sees_its_records(call: Callable[..., Any]) -> None:
    async def look() -> tuple[Any, ...]:
        return transactions.active(), transactions.held("k"), transactions.is_invalidated(["n"])

    assert call(look)() == (False, MISSING, False)
    with transaction.atomic():
        transactions.hold("k", b"1")
        transactions.note_invalidated(["n"])
        assert call(look)() == (True, b"1", True)
        # The look of the coroutine has not hidden them from the thread.
        assert transactions.held("k") == b"1"
        with undone():
            transactions.hold("k", b"2")
            assert call(look)() == (True, b"2", True)
        assert call(look)() == (True, b"1", True)
    assert call(look)() == (False, MISSING, False)


@transactional
def test_a_coroutine_that_sees_nothing_hides_nothing_from_its_thread() -> None:
    async def look() -> bool:
        return transactions.active()

    with transaction.atomic():
        transactions.note_invalidated(["n"])
        assert not contextvars.Context().run(asyncio.run, look())
        assert transactions.is_invalidated(["n"])


@transactional
def test_coroutines_beside_a_transaction_see_nothing() -> None:
    entered, leave = threading.Event(), threading.Event()

    def work() -> bool:
        with transaction.atomic():
            transactions.hold("k", b"1")
            entered.set()
            assert leave.wait(20)
            kept = transactions.held("k") == b"1"
        connections.close_all()
        return bool(kept)

    async def both() -> tuple[bool, Any]:
        task = asyncio.ensure_future(sync_to_async(work, thread_sensitive=False)())
        await asyncio.to_thread(entered.wait, 20)
        beside = transactions.active(), transactions.held("k")
        leave.set()
        return await task, beside

    assert asyncio.run(both()) == (True, (False, MISSING))


# --- random programs ------------------------------------------------------------------------------


@transactional
def test_random_programs() -> None:
    check_programs([connections["default"], connections["other"]], seeds=range(500))
