"""Transactions on PostgreSQL: isolation levels, broken transactions, lost connections."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from django.db import Error, IntegrityError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from async_cache import transactions
from async_cache.entry import MISSING
from tests.app.models import Author, Book
from tests.transaction_programs import check_programs

POSTGRES = "postgres"
SECOND = "second"
LEVELS = {
    "READ UNCOMMITTED": False,
    "READ COMMITTED": True,
    "REPEATABLE READ": False,
    "SERIALIZABLE": False,
}

pytestmark = pytest.mark.django_db(databases=["default", "other", POSTGRES], transaction=True)


@pytest.fixture
def second() -> Iterator[BaseDatabaseWrapper]:
    """Another connection to the same database, under an alias of its own."""
    database = connections[POSTGRES].copy(SECOND)
    database.ensure_connection()  # Django's tests refuse to open one whose alias they know.
    connections.settings[SECOND] = database.settings_dict
    connections[SECOND] = database
    try:
        yield database
    finally:
        database.close()
        del connections[SECOND]
        del connections.settings[SECOND]


@contextmanager
def terminated(using: str) -> Iterator[None]:
    """Have the server end a connection, from another one."""
    with connections[using].cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (pid,) = cursor.fetchone()
    other = connections[using].copy()
    try:
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)", [pid])
        yield
    finally:
        other.close()


def execute(using: str, sql: str) -> None:
    with connections[using].cursor() as cursor:
        cursor.execute(sql)


def now() -> transactions.Transaction:
    found = transactions.current()
    assert found is not None
    return found


@pytest.mark.parametrize("level", LEVELS)
def test_read_committed_is_what_the_server_says(level: str) -> None:
    with transaction.atomic(POSTGRES):
        execute(POSTGRES, f"SET TRANSACTION ISOLATION LEVEL {level}")
        assert now().read_committed() is LEVELS[level]
    with transaction.atomic(POSTGRES):
        assert now().read_committed()


def test_the_question_takes_no_snapshot() -> None:
    """After a query that took one, PostgreSQL would refuse to change the level."""
    with transaction.atomic(POSTGRES):
        assert now().read_committed()
        execute(POSTGRES, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        assert not now().read_committed()


def test_every_connection_must_be_read_committed(second: BaseDatabaseWrapper) -> None:
    with transaction.atomic(POSTGRES), transaction.atomic(SECOND):
        assert now().read_committed()
        execute(SECOND, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        assert not now().read_committed()
    with transaction.atomic(POSTGRES), transaction.atomic("default"):
        assert not now().read_committed()


def test_autocommit_off_by_hand_is_asked_too() -> None:
    transaction.set_autocommit(False, using=POSTGRES)
    try:
        assert not now().hooks
        assert now().read_committed()
        execute(POSTGRES, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        assert not now().read_committed()
    finally:
        transaction.rollback(using=POSTGRES)
        transaction.set_autocommit(True, using=POSTGRES)


def test_a_transaction_that_only_the_server_knows_to_be_broken() -> None:
    ran: list[str] = []
    with transaction.atomic(POSTGRES):
        now().on_commit(lambda: ran.append("all"))
        with suppress(Error):
            execute(POSTGRES, "SELECT nothing FROM nowhere")
        assert not connections[POSTGRES].needs_rollback
        assert not now().read_committed()
        transaction.set_rollback(True, using=POSTGRES)
    assert ran == []


def test_a_block_that_waits_for_its_rollback_is_not_asked() -> None:
    with transaction.atomic(POSTGRES):
        transaction.set_rollback(True, using=POSTGRES)
        assert not now().read_committed()


def test_an_error_in_a_savepoint_ends_what_was_made_in_it() -> None:
    ran: list[str] = []
    Author.objects.using(POSTGRES).create(name="a", email="a@example.org")
    with transaction.atomic(POSTGRES):
        transactions.hold("outer", b"1")
        now().on_commit(lambda: ran.append("outer"))
        with suppress(IntegrityError), transaction.atomic(POSTGRES):
            transactions.hold("inner", b"2")
            transactions.note_invalidated(["n"])
            now().on_commit(lambda: ran.append("inner"))
            Author.objects.using(POSTGRES).create(name="b", email="a@example.org")
            pytest.fail("not reached")
        assert transactions.held("outer") == b"1"
        assert transactions.held("inner") is MISSING
        assert not transactions.is_invalidated(["n"])
        assert now().read_committed()
    assert ran == ["outer"]


def test_a_commit_that_the_server_refuses() -> None:
    ran: list[str] = []

    def work() -> None:
        with transaction.atomic("default"), transaction.atomic(POSTGRES):
            now().on_commit(lambda: ran.append("all"))
            now().on_any_commit(lambda: ran.append("any"))
            transactions.hold("k", b"1")
            # Foreign keys are deferred: only the commit finds out.
            Book.objects.using(POSTGRES).create(title="An orphan", author_id=99)

    with pytest.raises(IntegrityError):
        work()
    assert ran == []
    assert not transactions.active()


def test_a_connection_lost_before_the_commit() -> None:
    ran: list[str] = []

    def work() -> None:
        with transaction.atomic(POSTGRES):
            now().on_commit(lambda: ran.append("all"))
            now().on_any_commit(lambda: ran.append("any"))
            transactions.hold("k", b"1")
            transactions.note_invalidated(["n"])
            with terminated(POSTGRES):
                assert not now().read_committed()

    with pytest.raises(Error):
        work()
    assert ran == []
    assert not transactions.active()
    with transaction.atomic(POSTGRES):
        assert not transactions.active()
        assert now().read_committed()
        now().on_commit(lambda: ran.append("next"))
    assert ran == ["next"]


def test_a_connection_closed_in_the_middle() -> None:
    ran: list[str] = []
    with transaction.atomic("default"), transaction.atomic(POSTGRES):
        now().on_commit(lambda: ran.append("all"))
        now().on_any_commit(lambda: ran.append("any"))
        transactions.hold("k", b"1")
        connections[POSTGRES].close()
        assert not now().read_committed()
        assert transactions.held("k") is MISSING
        assert not now().on_commit(lambda: ran.append("late"))
    assert ran == ["any"]


@pytest.mark.slow
def test_random_programs(second: BaseDatabaseWrapper) -> None:
    check_programs([connections[POSTGRES], second], seeds=range(500))


@pytest.mark.slow
def test_random_programs_on_two_kinds_of_database() -> None:
    check_programs([connections[POSTGRES], connections["default"]], seeds=range(1000, 1200))
