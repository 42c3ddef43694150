"""What the managers store, keep and refuse, on SQLite and PostgreSQL."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import (
    DatabaseError,
    IntegrityError,
    OperationalError,
    connections,
    transaction,
)
from django.test.utils import CaptureQueriesContext

from async_cache import clock
from async_cache.exceptions import UnstorableValue
from async_cache.results import apart, notices, upsert
from async_cache.results.managers import TASK_RULES, TxIsolationWarning, transaction_retry
from async_cache.results.models import ChordCounter, ChordPart, GroupResult, TaskResult
from async_cache.results.records import Record
from async_cache.results.utils import now
from async_cache.results.waiting.topics import TASK, Topic
from tests.results.databases import DATABASES, on_databases

pytestmark = on_databases


@pytest.fixture(params=DATABASES)
def using(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    apart.close()


@pytest.fixture(params=["statement", "lock"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How rows are written: in one statement, or as MySQL (not MariaDB) needs it."""
    if request.param == "lock":
        monkeypatch.setattr(upsert, "STATEMENT_VENDORS", frozenset())
    return str(request.param)


def store(task_id: str, status: str, using: str, result: str | None = None, **more: Any) -> Any:
    return TaskResult.objects.store_result(
        "application/json", "utf-8", task_id, result, status, using=using, **more
    )


def written(queries: CaptureQueriesContext) -> list[str]:
    """Return the statements sent, without the one that tells those who wait."""
    sent = [query["sql"] for query in queries.captured_queries]
    return [sql for sql in sent if "pg_notify" not in sql]


def get(task_id: str, using: str) -> TaskResult:
    return TaskResult.objects.using(using).get(task_id=task_id)


def test_a_stored_result_is_one_statement_and_read_in_another(using: str) -> None:
    with CaptureQueriesContext(connections[using]) as queries:
        stored = store("one", "SUCCESS", using, "[1, 2]", worker="w1", task_name="shop.add")
        assert stored.result == "[1, 2]"
        assert stored.pk is not None
        assert stored.worker == "w1"
    assert len(written(queries)) == 1
    found = get("one", using)
    assert (found.status, found.result, found.task_name) == ("SUCCESS", "[1, 2]", "shop.add")
    assert found.date_finished is not None
    assert found == stored
    assert stored.get_deferred_fields() <= {"task_args", "task_kwargs"}


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("first", "second", "left"),
    [
        (("SUCCESS", 0), ("STARTED", 0), ("SUCCESS", 0)),
        (("SUCCESS", 0), ("STARTED", 3), ("SUCCESS", 0)),
        (("SUCCESS", 0), ("SUCCESS", 1), ("SUCCESS", 1)),
        (("RETRY", 0), ("STARTED", 0), ("RETRY", 0)),
        (("RETRY", 0), ("STARTED", 1), ("STARTED", 1)),
        (("FAILURE", 1), ("PROGRESS", 1), ("FAILURE", 1)),
        (("STARTED", 0), ("PROGRESS", 0), ("PROGRESS", 0)),
        (("FAILURE", 0), ("REVOKED", 0), ("REVOKED", 0)),
    ],
)
def test_a_write_of_lower_rank_is_refused(
    using: str, first: tuple[str, int], second: tuple[str, int], left: tuple[str, int]
) -> None:
    store("ranked", first[0], using, "1", retries=first[1])
    answer = store("ranked", second[0], using, "2", retries=second[1])
    found = get("ranked", using)
    assert (found.status, found.retries) == left
    assert found.result == ("1" if left == first and first != second else "2")
    assert (answer.status, answer.result) == (found.status, found.result)


@pytest.mark.usefixtures("way")
def test_what_only_the_first_write_knew_is_kept(using: str) -> None:
    started = datetime(2020, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    store(
        "kept", "STARTED", using, task_name="a.b", task_args="(1,)", worker="w", group="g",
        sequence=4, date_started=started, date_created=started, traceback="gone",
    )  # fmt: skip
    stored = store("kept", "SUCCESS", using, "3")
    for row in (stored, get("kept", using)):
        assert (row.task_name, row.task_args, row.worker) == ("a.b", "(1,)", "w")
        assert (row.group, row.sequence, row.traceback) == ("g", 4, None)
        assert row.date_started == row.date_created == started


@pytest.mark.usefixtures("way")
def test_the_last_save_grows_and_the_end_is_exact(
    using: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = datetime(2021, 1, 2, 3, 4, 5, tzinfo=UTC)
    first = store("times", "SUCCESS", using, date_finished=end)
    again = store("times", "SUCCESS", using, date_finished=end)
    assert again.date_done > first.date_done
    assert again.date_finished == end
    earlier = again.date_done.timestamp() - 60
    monkeypatch.setattr(clock, "now", lambda: earlier)
    store("times", "SUCCESS", using)
    assert get("times", using).date_done == again.date_done


@pytest.mark.usefixtures("way")
def test_a_row_keeps_the_last_save_that_it_is_given(using: str) -> None:
    moment = datetime(2021, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    row = {**TaskResult.objects.row_of(Record("copied", state="SUCCESS")), "date_done": moment}
    upsert.upsert(TaskResult, using, TASK_RULES, row)
    assert get("copied", using).date_done == moment


def test_started_tells_no_end(using: str) -> None:
    assert store("going", "STARTED", using).date_finished is None


def test_many_rows_are_one_statement(using: str) -> None:
    store("b", "SUCCESS", using, "old")
    names = ("a", "b", "c")
    rows = [
        TaskResult.objects.row_of(Record(id=name, state="FAILURE", value=b"new")) for name in names
    ]
    with CaptureQueriesContext(connections[using]) as queries:
        stored = TaskResult.objects.store_rows(rows, using)
    assert len(written(queries)) == 1
    assert stored is not None
    assert {row.task_id for row in stored} == {"a", "c"}
    assert get("b", using).result == "old"


def test_rows_written_together_are_those_written_alone(using: str) -> None:
    def rows(prefix: str) -> list[dict[str, Any]]:
        given = [
            Record(id=f"{prefix}{n}", state=state, name='ä{},"\\', value=value, started=started)
            for n, (state, value, started) in enumerate(
                [
                    ("SUCCESS", b'[1, null, "{a,b}"]', 1_700_000_000.123456),
                    ("FAILURE", b"", None),
                    ("STARTED", "ü\\".encode(), 0.0),
                ]
                * 4
            )
        ]
        return [TaskResult.objects.row_of(record) for record in given]

    together, alone = rows("t"), rows("a")
    TaskResult.objects.store_rows(together, using)
    for row in alone:
        TaskResult.objects.store_rows([row], using)
    left_out = {"id", "_state", "task_id", "date_created", "date_done", "date_finished"}
    for one, other in zip(together, alone, strict=True):
        first, second = (vars(get(row["task_id"], using)) for row in (one, other))
        for name in first.keys() - left_out:
            assert first[name] == second[name], name
        assert first["date_done"] == one["date_done"]
    # They are compared by rank, one by one, as those written alone.
    again = [{**row, "status": "PENDING", "rank": 0} for row in together]
    assert TaskResult.objects.store_rows(again, using) == []


def test_an_unknown_task_is_an_unsaved_instance() -> None:
    row = TaskResult.objects.get_task("nobody")
    assert row.pk is None
    assert (row.task_id, row.status) == ("nobody", "PENDING")
    assert not TaskResult.objects.exists()


def test_an_id_that_does_not_fit_is_refused_and_a_name_is_cut(using: str) -> None:
    with pytest.raises(UnstorableValue, match="resize_task_id"):
        store("x" * 256, "SUCCESS", using)
    with pytest.raises(UnstorableValue, match="group"):
        store("x", "SUCCESS", using, group="g" * 256)
    store("named", "SUCCESS", using, task_name="n" * 300, worker="w" * 300)
    found = get("named", using)
    assert (len(found.task_name or ""), len(found.worker or "")) == (255, 100)


def test_a_result_survives_the_rollback_of_the_caller(using: str) -> None:
    with transaction.atomic(using):
        TaskResult.objects.using(using).create(task_id="mine", status="STARTED")
        store("kept", "FAILURE", using, "1")
        transaction.set_rollback(True, using)
    assert apart.flush(20)
    assert get("kept", using).status == "FAILURE"
    assert not TaskResult.objects.using(using).filter(task_id="mine").exists()


def test_a_result_survives_a_broken_transaction(using: str) -> None:
    with transaction.atomic(using):
        TaskResult.objects.using(using).create(task_id="mine", status="STARTED")
        with pytest.raises(IntegrityError), transaction.atomic(using, savepoint=False):
            TaskResult.objects.using(using).create(task_id="mine", status="STARTED")
        assert connections[using].needs_rollback
        store("kept", "FAILURE", using, "1")
        transaction.set_rollback(True, using)
    assert apart.flush(20)
    assert get("kept", using).status == "FAILURE"


@pytest.mark.parametrize("server", DATABASES[1:])
def test_a_row_that_the_caller_has_locked_is_written_after_its_transaction(server: str) -> None:
    store("own", "STARTED", server)
    with transaction.atomic(server):
        TaskResult.objects.using(server).filter(task_id="own").update(worker="mine")
        store("own", "SUCCESS", server, "1", exception_retry_count=0)
        transaction.set_rollback(True, server)
    assert TaskResult.objects.db_manager(server).get_task("own").result == "1"
    assert get("own", server).worker is None


def test_who_waits_is_told_of_a_row_written_after_the_transaction() -> None:
    store("own", "STARTED", "postgres")
    listener = connections["postgres"].copy("postgres")
    try:
        with listener.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock_shared(%s)", [notices.LISTENING])
            cursor.execute(f"LISTEN {notices.CHANNEL}")
        with transaction.atomic("postgres"):
            TaskResult.objects.using("postgres").filter(task_id="own").update(worker="mine")
            store("own", "SUCCESS", "postgres", "1", exception_retry_count=0)
        driver: Any = listener.connection
        (told,) = driver.notifies(timeout=20, stop_after=1)
        assert notices.mark(Topic(TASK, "own")) in told.payload
    finally:
        listener.close()


@pytest.mark.parametrize("server", DATABASES[1:])
def test_a_lock_of_others_is_told_outside_a_transaction(server: str) -> None:
    store("held", "STARTED", server)
    other = connections[server].copy(server)
    bound = {"mysql": "SET SESSION innodb_lock_wait_timeout = 1"}
    try:
        with other.cursor() as holder, connections[server].cursor() as cursor:
            holder.execute("BEGIN")
            holder.execute("UPDATE async_cache_results_taskresult SET worker = 'x'")
            cursor.execute(bound.get(connections[server].vendor, "SET lock_timeout = 200"))
            with pytest.raises(OperationalError):
                store("held", "SUCCESS", server, exception_retry_count=0)
            holder.execute("ROLLBACK")
    finally:
        other.close()
        connections[server].close()
    assert get("held", server).status == "STARTED"


def test_the_caller_reads_what_waited_for_its_transaction() -> None:
    with transaction.atomic():
        TaskResult.objects.create(task_id="mine")
        store("told", "SUCCESS", "default", "1")
    assert TaskResult.objects.get_task("told").result == "1"


def test_what_cannot_be_stored_later_is_logged_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    if connections["default"].vendor != "sqlite":
        pytest.skip("only on SQLite does a write wait for the end of a transaction")
    with connections["default"].schema_editor() as editor:
        editor.alter_db_table(TaskResult, TaskResult._meta.db_table, "away")
    try:
        with transaction.atomic():
            store("lost", "SUCCESS", "default")
        assert apart.flush(20)
    finally:
        with connections["default"].schema_editor() as editor:
            editor.alter_db_table(TaskResult, "away", TaskResult._meta.db_table)
    assert "was not stored" in caplog.text
    assert not TaskResult.objects.exists()


@pytest.mark.usefixtures("way")
def test_writers_at_once_leave_the_highest_rank(using: str) -> None:
    states = ["STARTED", "RETRY", "FAILURE", "SUCCESS", "PENDING", "PROGRESS"]
    errors: list[BaseException] = []
    barrier = threading.Barrier(len(states))

    def write(state: str) -> None:
        try:
            barrier.wait(20)
            for number in range(5):
                store(f"raced-{number}", state, using, state)
        except BaseException as error:  # noqa: BLE001 - shown by the assertion
            errors.append(error)
        finally:
            connections[using].close()

    threads = [threading.Thread(target=write, args=(state,)) for state in states]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    rows = TaskResult.objects.using(using).filter(task_id__startswith="raced-")
    assert [(row.status, row.result) for row in rows] == [("SUCCESS", "SUCCESS")] * 5


def test_expired_rows_are_deleted_and_the_rest_stays(using: str) -> None:
    manager = TaskResult.objects.db_manager(using)
    for number in range(5):
        store(f"old-{number}", "SUCCESS", using)
    old = now() - timedelta(days=2)
    TaskResult.objects.using(using).update(date_done=old)
    store("new", "SUCCESS", using)
    assert manager.get_all_expired(timedelta(days=1)).count() == 5
    assert manager.get_all_expired(None).count() == 0
    assert manager.delete_expired(86_400) == 5
    assert manager.delete_expired(None) == 0
    assert [row.task_id for row in manager.all()] == ["new"]


def test_groups_are_stored_once_and_keep_their_first_time(using: str) -> None:
    first = GroupResult.objects.store_group_result("a", "utf-8", "g", "[]", using)
    again = GroupResult.objects.store_group_result("a", "utf-8", "g", "[1]", using)
    assert (again.pk, again.date_created, again.result) == (first.pk, first.date_created, "[1]")
    assert GroupResult.objects.get_group("unknown").pk is None


# transaction_retry


class Fails:
    """Raises a database error some times before it answers."""

    def __init__(self, using: str, sql: str, times: int) -> None:
        self.using, self.sql, self.left, self.calls = using, sql, times, 0

    def __call__(self, **_: Any) -> str:
        self.calls += 1
        if self.left > 0:
            self.left -= 1
            TaskResult.objects.using(self.using).create(task_id=f"half-{self.calls}")
            with connections[self.using].cursor() as cursor:
                cursor.execute(self.sql)
        return "done"


def raise_state(code: str) -> str:
    return f"DO $$ BEGIN RAISE EXCEPTION 'made' USING ERRCODE = '{code}'; END $$"


def retried(function: Callable[..., Any], retries: int = 2) -> Callable[..., Any]:
    return transaction_retry(max_retries=retries)(lambda **keywords: function(**keywords))


def test_a_unique_violation_is_retried_and_rolled_back_to_the_savepoint(using: str) -> None:
    TaskResult.objects.using(using).create(task_id="twin")
    table = TaskResult._meta.db_table
    sql = f"UPDATE {table} SET task_id = 'twin' WHERE task_id LIKE 'half-%%'"
    fails = Fails(using, sql, 2)
    with transaction.atomic(using):
        assert retried(fails)(using=using) == "done"
        TaskResult.objects.using(using).create(task_id="after")
    assert fails.calls == 3
    ids = set(TaskResult.objects.using(using).values_list("task_id", flat=True))
    assert ids == {"twin", "after"}


def test_what_fails_again_is_not_retried(using: str) -> None:
    fails = Fails(using, "SELECT nothing FROM nowhere", 9)
    with pytest.raises(DatabaseError):
        retried(fails)(using=using)
    assert fails.calls == 1

    def wrong(**_: Any) -> None:
        fails.calls += 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        retried(wrong)(using=using)
    assert fails.calls == 2


@pytest.mark.parametrize(
    ("code", "alone", "inside"),
    [("40001", 3, 1), ("40P01", 3, 3), ("55P03", 3, 3), ("22012", 1, 1)],
)
def test_postgres_codes_say_whether_another_try_helps(code: str, alone: int, inside: int) -> None:
    fails = Fails("postgres", raise_state(code), 9)
    with pytest.raises(DatabaseError):
        retried(fails)(using="postgres")
    assert fails.calls == alone
    TaskResult.objects.using("postgres").delete()
    fails = Fails("postgres", raise_state(code), 9)
    with pytest.raises(DatabaseError), transaction.atomic("postgres"):
        retried(fails)(using="postgres")
    assert fails.calls == inside


def test_a_lost_connection_is_replaced_outside_a_transaction() -> None:
    lose = "SELECT pg_terminate_backend(pg_backend_pid())"
    fails = Fails("postgres", lose, 1)
    assert retried(fails)(using="postgres") == "done"
    TaskResult.objects.using("postgres").delete()
    fails = Fails("postgres", lose, 1)
    with pytest.raises(OperationalError), transaction.atomic("postgres"):
        retried(fails)(using="postgres")
    assert fails.calls == 1


def test_the_call_may_say_how_often(using: str) -> None:
    table = TaskResult._meta.db_table
    TaskResult.objects.using(using).create(task_id="twin")
    sql = f"UPDATE {table} SET task_id = 'twin' WHERE task_id LIKE 'half-%%'"
    fails = Fails(using, sql, 9)
    with pytest.raises(IntegrityError):
        retried(fails)(using=using, exception_retry_count=0)
    assert fails.calls == 1


# isolation


def test_a_second_poll_under_repeatable_read_warns() -> None:
    manager = TaskResult.objects.db_manager("postgres")
    with transaction.atomic("postgres"):
        with connections["postgres"].cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            manager.get_task("polled")
        with pytest.warns(TxIsolationWarning, match="REPEATABLE READ"):
            manager.get_task("polled")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        manager.get_task("polled")
        manager.get_task("polled")
        manager.warn_if_repeatable_read()
    assert "postgresql" in manager.current_engine()
    assert manager.connection_for_read().alias == "postgres"
    assert manager.connection_for_write().alias == "postgres"


# chords


def test_a_chord_counts_each_part_once(using: str) -> None:
    chords = ChordCounter.objects
    chords.start("c", 2, "[]", using)
    chords.start("c", 2, "[]", using)
    assert chords.end_part("c", "one", using) is None
    assert chords.end_part("c", "one", using) is None
    with transaction.atomic(using=using):
        assert chords.end_part("c", "two", using) is not None
        transaction.set_rollback(True, using)
    # What was rolled back was not counted.
    with transaction.atomic(using=using):
        counter = chords.end_part("c", "two", using)
        assert counter is not None
        assert (counter.count, counter.ended) == (2, 2)
        assert chords.end_part("c", "two", using) is None
        chords.finish("c", using)
    assert chords.end_part("c", "two", using) is None
    assert not ChordPart.objects.using(using).exists()
    assert not ChordCounter.objects.using(using).exists()


def test_a_chord_starts_whatever_becomes_of_the_callers_transaction(using: str) -> None:
    with transaction.atomic(using=using):
        ChordCounter.objects.start("c", 2, "[]", using)
        transaction.set_rollback(True, using)
    kept = connections[using].vendor != "sqlite"
    assert ChordCounter.objects.using(using).exists() is kept


def test_the_parts_of_a_chord_that_end_at_once_call_its_body_once(using: str) -> None:
    ChordCounter.objects.start("c", 6, "[]", using)
    called: list[object] = []
    errors: list[BaseException] = []
    barrier = threading.Barrier(6)

    def end(number: int) -> None:
        try:
            barrier.wait(20)
            called.append(ChordCounter.objects.end_part("c", f"part-{number}", using))
        except BaseException as error:  # noqa: BLE001 - shown by the assertion
            errors.append(error)
        finally:
            connections[using].close()

    threads = [threading.Thread(target=end, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert sum(one is not None for one in called) == 1


def test_the_rules_name_fields() -> None:
    names = {field.attname for field in TaskResult._meta.concrete_fields}
    assert TASK_RULES.first | TASK_RULES.keep | TASK_RULES.latest <= names
