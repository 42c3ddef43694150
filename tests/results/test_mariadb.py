"""What only MySQL and MariaDB do: isolation, deadlocks, short keys, comparison without case.

The tests of managers, commands, admin and the layer of rows run on MariaDB too; see
`tests.results.databases`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from django.apps import apps
from django.db import OperationalError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test.utils import CaptureQueriesContext

from async_cache.results import apart, upsert
from async_cache.results.codec import decode_value
from async_cache.results.layers.database import DatabaseLayer
from async_cache.results.managers import TASK_RULES, TxIsolationWarning, transaction_retry
from async_cache.results.models import GroupResult, TaskResult
from async_cache.results.records import NO_RECORD, Record
from async_cache.results.rows import IdField
from tests.conftest import MARIADB, Servers
from tests.results.test_layers import success, together
from tests.servers import database_from_url
from tests.workers import ROOT

pytestmark = pytest.mark.django_db(databases=["default", MARIADB], transaction=True)


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    apart.close()


@pytest.fixture
def layer() -> DatabaseLayer:
    return DatabaseLayer(MARIADB)


def ask(sql: str, *parameters: str) -> Any:
    with connections[MARIADB].cursor() as cursor:
        cursor.execute(sql, parameters)
        row = cursor.fetchone()
    return row[0] if row and len(row) == 1 else row


@contextmanager
def another() -> Iterator[BaseDatabaseWrapper]:
    """Another connection to the same database."""
    connection = connections[MARIADB].copy(MARIADB)
    try:
        yield connection
    finally:
        connection.close()


def test_the_server_is_real_and_not_root() -> None:
    connection: Any = connections[MARIADB]
    assert connection.mysql_is_mariadb
    assert connection.mysql_version >= (10, 6)
    owner = os.stat(ask("SELECT @@datadir")).st_uid
    assert owner != 0 or os.geteuid() != 0


# Isolation.


@contextmanager
def isolated(level: str) -> Iterator[None]:
    """Give the connection another isolation level, as OPTIONS would."""
    before = ask("SELECT @@tx_isolation")
    with connections[MARIADB].cursor() as cursor:
        cursor.execute(f"SET SESSION tx_isolation = '{level}'")
    try:
        yield
    finally:
        with connections[MARIADB].cursor() as cursor:
            cursor.execute(f"SET SESSION tx_isolation = '{before}'")


def poll_twice() -> None:
    with transaction.atomic(MARIADB):
        manager = TaskResult.objects.db_manager(MARIADB)
        manager.get_task("polled")
        manager.get_task("polled")


def test_a_second_poll_under_repeatable_read_warns() -> None:
    with isolated("REPEATABLE-READ"), pytest.warns(TxIsolationWarning, match="REPEATABLE READ"):
        poll_twice()


def test_no_poll_under_read_committed_warns() -> None:
    with isolated("READ-COMMITTED"), warnings.catch_warnings():
        warnings.simplefilter("error")
        poll_twice()
        TaskResult.objects.db_manager(MARIADB).warn_if_repeatable_read()


@pytest.mark.parametrize("level", ["REPEATABLE-READ", "READ-COMMITTED"])
@pytest.mark.parametrize("vendors", [upsert.STATEMENT_VENDORS, frozenset()])
def test_the_rank_is_compared_with_what_is_committed(
    layer: DatabaseLayer, level: str, vendors: frozenset[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old snapshot does not let a late state hide a result."""
    monkeypatch.setattr(upsert, "STATEMENT_VENDORS", vendors)
    late = TaskResult.objects.row_of(Record("a", state="STARTED"))
    with isolated(level), transaction.atomic(MARIADB):
        assert layer.get("a") is NO_RECORD
        together([partial(layer.save, success("a", 1))])
        assert upsert.upsert(TaskResult, MARIADB, TASK_RULES, late) is None
    found = layer.get("a")
    assert found is not NO_RECORD
    assert found.state == "SUCCESS"


# What can succeed on another try.


def two_rows() -> None:
    TaskResult.objects.using(MARIADB).bulk_create([TaskResult(task_id=name) for name in "ab"])


def in_opposite_order(first: Callable[[Callable[[], None]], object]) -> list[BaseException]:
    """Lock two rows in one order here, in the other order in a thread: one is a victim."""
    barrier = threading.Barrier(2)
    errors: list[BaseException] = []

    def meet() -> None:
        # Whoever tries again comes alone.
        if not barrier.broken:
            try:
                barrier.wait(10)
            except threading.BrokenBarrierError:
                return
            barrier.abort()

    def other() -> None:
        try:
            with transaction.atomic(MARIADB):
                # The server gives up the transaction that has changed less: not this one.
                heavy = [GroupResult(group_id=f"heavy-{n}") for n in range(50)]
                GroupResult.objects.using(MARIADB).bulk_create(heavy)
                touch("b")
                meet()
                touch("a")
        except BaseException as error:  # noqa: BLE001 - shown by the assertion
            errors.append(error)
        finally:
            connections[MARIADB].close()

    thread = threading.Thread(target=other)
    thread.start()
    try:
        first(meet)
    finally:
        barrier.abort()
        thread.join(60)
    return errors


def touch(task_id: str) -> None:
    assert TaskResult.objects.using(MARIADB).filter(task_id=task_id).update(worker="w") == 1


def test_the_victim_of_a_deadlock_is_tried_again() -> None:
    two_rows()
    calls = []

    @transaction_retry(max_retries=2)
    def work(meet: Callable[[], None], *, using: str) -> None:
        calls.append(using)
        with transaction.atomic(using):
            touch("a")
            meet()
            touch("b")

    assert in_opposite_order(lambda meet: work(meet, using=MARIADB)) == []
    assert len(calls) == 2


def test_a_deadlock_that_ended_the_callers_transaction_is_told() -> None:
    two_rows()
    calls = []

    @transaction_retry(max_retries=2)
    def work(meet: Callable[[], None], *, using: str) -> None:
        calls.append(using)
        touch("a")
        meet()
        touch("b")

    def whole(meet: Callable[[], None]) -> None:
        with transaction.atomic(MARIADB):
            GroupResult.objects.using(MARIADB).create(group_id="gone")
            work(meet, using=MARIADB)

    def run(meet: Callable[[], None]) -> None:
        with pytest.raises(OperationalError, match="Deadlock"):
            whole(meet)

    assert in_opposite_order(run) == []
    assert len(calls) == 1
    assert not GroupResult.objects.using(MARIADB).filter(group_id="gone").exists()


def test_a_lock_that_is_released_is_waited_for_again() -> None:
    two_rows()
    calls = []
    with another() as holder, holder.cursor() as lock:
        lock.execute("BEGIN")
        lock.execute("UPDATE async_cache_results_taskresult SET worker = 'x' WHERE task_id = 'a'")

        @transaction_retry(max_retries=2)
        def work(*, using: str) -> None:
            calls.append(using)
            if len(calls) == 2:
                lock.execute("ROLLBACK")
            touch("a")

        with connections[MARIADB].cursor() as cursor:
            cursor.execute("SET SESSION innodb_lock_wait_timeout = 1")
        with transaction.atomic(MARIADB):
            TaskResult.objects.using(MARIADB).create(task_id="kept")
            work(using=MARIADB)
    assert len(calls) == 2
    assert TaskResult.objects.using(MARIADB).filter(task_id="kept").exists()
    connections[MARIADB].close()


def test_a_deadlock_of_the_second_connection_is_tried_again() -> None:
    """A result is stored apart from the caller's transaction, whatever ends its own."""
    two_rows()
    calls = []

    def run(meet: Callable[[], None]) -> None:
        def work() -> str:
            calls.append(1)
            touch("a")
            meet()
            touch("b")
            return "done"

        with transaction.atomic(MARIADB):
            GroupResult.objects.using(MARIADB).create(group_id="mine")
            assert apart.run_apart(MARIADB, work) == "done"
            transaction.set_rollback(True, MARIADB)

    assert in_opposite_order(run) == []
    assert len(calls) == 2
    assert not GroupResult.objects.using(MARIADB).filter(group_id="mine").exists()


# Statements.


def test_a_write_is_one_statement_of_several_where_they_are_large(layer: DatabaseLayer) -> None:
    limit = ask("SELECT @@max_allowed_packet")
    text = "x" * 400_000
    number = limit // len(text) + 2
    records = [Record(f"t{n}", state="SUCCESS", traceback=text) for n in range(number)]
    with CaptureQueriesContext(connections[MARIADB]) as queries:
        assert layer.save_many(records) == number
    assert 2 < len(queries) < number
    assert TaskResult.objects.using(MARIADB).count() == number


# Ids.


def test_ids_are_compared_by_their_characters(layer: DatabaseLayer) -> None:
    names = ["abc", "ABC", "äbc", "abc ", "abç"]
    for number, name in enumerate(names):
        assert layer.save(success(name, number, group=name, name=name))
    assert layer.save_many([success(name, number) for number, name in enumerate(names)]) == 5
    for number, name in enumerate(names):
        found = layer.get(name)
        assert found is not NO_RECORD
        assert decode_value(found) == number
        assert layer.count(name) == (1, 0)
        assert layer.reserve(name) == 0


def collations() -> set[str]:
    database = connections[MARIADB].settings_dict["NAME"]
    with connections[MARIADB].cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT collation_name FROM information_schema.columns WHERE table_schema = %s"
            " AND table_name LIKE 'async_cache_results_%%' AND column_name IN ('task_id', 'group',"
            " 'group_id', 'task_name')",
            [database],
        )
        return {str(row[0]) for row in cursor.fetchall()}


def test_a_resized_column_is_compared_as_before(settings: Any) -> None:
    from tests.results.test_commands import run, set_length

    assert collations() == {"utf8mb4_nopad_bin"}
    try:
        set_length(settings, 150)
        assert "255 to 150" in run("resize_task_id", "--database", MARIADB)
        assert collations() == {"utf8mb4_nopad_bin"}
    finally:
        set_length(settings, 255)
        run("resize_task_id", "--database", MARIADB)


@contextmanager
def database_of_short_keys(servers: Servers, charset: str) -> Iterator[dict[str, Any]]:
    """A database whose tables have the row format of old servers: keys of 767 bytes."""
    before = ask("SELECT @@innodb_default_row_format")
    with connections[MARIADB].cursor() as cursor:
        cursor.execute("SET GLOBAL innodb_default_row_format = 'compact'")
        cursor.execute("DROP DATABASE IF EXISTS async_cache_short")
        cursor.execute(f"CREATE DATABASE async_cache_short CHARACTER SET {charset}")
        try:
            entry = database_from_url(servers.mariadb_url(), "async_cache_short")
            yield {"default": entry, "other": entry}
        finally:
            cursor.execute(f"SET GLOBAL innodb_default_row_format = '{before}'")
            cursor.execute("DROP DATABASE async_cache_short")


def migrate(databases: dict[str, Any], length: int) -> subprocess.CompletedProcess[str]:
    changed = {"DATABASES": databases, "DJANGO_CELERY_RESULTS_TASK_ID_MAX_LENGTH": length}
    return subprocess.run(
        [sys.executable, "-m", "django", "migrate", "async_cache_results", "--skip-checks"],
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "TEST_SETTINGS": json.dumps(changed),
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.integration
def test_the_setting_makes_ids_fit_short_keys(servers: Servers) -> None:
    with database_of_short_keys(servers, "utf8mb4") as databases:
        tried = migrate(databases, 255)
        assert tried.returncode != 0
        assert "767 bytes" in tried.stderr
    with database_of_short_keys(servers, "utf8mb4") as databases:
        done = migrate(databases, 191)
        assert done.returncode == 0, done.stderr
        assert lengths_of("async_cache_short") == {191}


@pytest.mark.integration
def test_tables_are_made_in_another_character_set(servers: Servers) -> None:
    with database_of_short_keys(servers, "latin1") as databases:
        done = migrate(databases, 255)
        assert done.returncode == 0, done.stderr
        assert lengths_of("async_cache_short") == {255}


def lengths_of(database: str) -> set[int]:
    found = set()
    with connections[MARIADB].cursor() as cursor:
        for model in apps.get_app_config("async_cache_results").get_models():
            columns = [f.column for f in model._meta.local_concrete_fields if type(f) is IdField]
            for column in [] if model._meta.proxy else columns:
                cursor.execute(
                    "SELECT character_maximum_length FROM information_schema.columns"
                    " WHERE table_schema = %s AND table_name = %s AND column_name = %s",
                    [database, model._meta.db_table, column],
                )
                (length,) = cursor.fetchone()
                found.add(int(length))
    return found
