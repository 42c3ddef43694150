"""The subcommands: purge, import_results, resize_task_id."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.apps import apps
from django.core.management import CommandError, call_command
from django.db import connections, transaction
from django.test.utils import CaptureQueriesContext

from async_cache import clock
from async_cache.results import purging
from async_cache.results.exceptions import RecordRejected
from async_cache.results.layers.database import DatabaseLayer
from async_cache.results.models import (
    ChordCounter,
    ChordPart,
    GroupResult,
    GroupSequence,
    TaskMeta,
    TaskResult,
)
from async_cache.results.records import Record, rank
from async_cache.results.rows import IdField
from async_cache.results.upkeep import purge
from async_cache.results.utils import now
from tests.results.celery_support import make_app
from tests.results.databases import DATABASES, on_databases

pytestmark = on_databases


@pytest.fixture(params=DATABASES)
def using(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(*words: str, out: io.StringIO | None = None) -> str:
    out = out or io.StringIO()
    call_command("async_cache", *words, stdout=out, stderr=out)
    return out.getvalue()


def fill(using: str, number: int, state: str = "SUCCESS", group: str = "", days: float = 0) -> None:
    layer = DatabaseLayer(using)
    layer.save_many(
        [
            Record(f"{state}-{group}-{days}-{n}", state=state, group=group, sequence=n)
            for n in range(number)
        ]
    )
    rows = TaskResult.objects.using(using).filter(task_id__startswith=f"{state}-{group}-{days}-")
    for n, row in enumerate(rows.order_by("pk")):
        moment = now() - timedelta(days=days) + timedelta(microseconds=n)
        TaskResult.objects.using(using).filter(pk=row.pk).update(date_done=moment)


def left(using: str) -> list[str]:
    return sorted(TaskResult.objects.using(using).values_list("task_id", flat=True))


def test_purge_keeps_each_state_as_long_as_it_is_told(using: str) -> None:
    for state in ("SUCCESS", "FAILURE", "PROGRESS"):
        for days in (1, 10):
            fill(using, 2, state, days=days)
    said = run(
        "purge", "--keep", f"FAILURE={20 * 86_400}", "--keep", f"*={5 * 86_400}",
        "--keep", "SUCCESS=0", "--database", using,
    )  # fmt: skip
    assert "Deleted 6 rows." in said
    assert left(using) == [
        "FAILURE--1-0", "FAILURE--1-1", "FAILURE--10-0", "FAILURE--10-1",
        "PROGRESS--1-0", "PROGRESS--1-1",
    ]  # fmt: skip


def test_purge_reads_the_settings(using: str, settings: Any) -> None:
    fill(using, 2, "SUCCESS", days=2)
    fill(using, 2, "FAILURE", days=2)
    settings.ASYNC_CACHE = {"RESULTS": {"RETENTION": {"SUCCESS": 86_400}}}
    assert purge(using=using).deleted == 2
    settings.ASYNC_CACHE = {"RESULTS": {"EXPIRES": 86_400}}
    assert purge(using=using).deleted == 2
    assert left(using) == []


def test_purge_works_in_short_transactions(using: str) -> None:
    fill(using, 25, days=3)
    with CaptureQueriesContext(connections[using]) as queries:
        assert purge({"*": 1}, batch=10, using=using).deleted == 25
    sent = [query["sql"] for query in queries.captured_queries]
    deletes = [sql for sql in sent if sql.startswith("DELETE") and "taskresult" in sql]
    assert len(deletes) == 3
    selects = [sql for sql in sent if "SELECT" in sql and "taskresult" in sql]
    if connections[using].vendor != "sqlite":
        assert all("SKIP LOCKED" in sql for sql in selects)
    # Each batch goes on where the one before ended.
    assert ">=" not in selects[0]
    assert all(">=" in sql for sql in selects[1:3])


@pytest.mark.parametrize("server", DATABASES[1:])
def test_purge_leaves_rows_that_are_locked(server: str) -> None:
    fill(server, 3, days=3)
    held = TaskResult.objects.using(server).order_by("pk").first()
    assert held is not None
    other = connections[server].copy(server)
    try:
        with other.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute(
                "SELECT 1 FROM async_cache_results_taskresult WHERE id = %s FOR UPDATE", [held.pk]
            )
            assert purge({"*": 1}, using=server).deleted == 2
            cursor.execute("ROLLBACK")
    finally:
        other.close()
    assert left(server) == [held.task_id]


def test_purge_ends_when_its_time_is_over(using: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(using, 25, days=3)
    ticks = iter(range(1_000))
    monkeypatch.setattr(clock, "monotonic", lambda: float(next(ticks)))
    monkeypatch.setattr(purging, "SLOW_SECONDS", 1e9)
    out = run("purge", "--seconds", "5", "--batch", "10", "--keep", "*=1", "--database", using)
    assert "more are left" in out
    assert 0 < len(left(using)) < 25


def test_a_slow_batch_is_followed_by_a_smaller_one(
    using: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(using, 100, days=3)
    monkeypatch.setattr(purging, "SLOW_SECONDS", -1.0)
    monkeypatch.setattr(purging, "SMALLEST_BATCH", 5)
    told: list[int] = []
    purge({"*": 1}, batch=40, using=using, progress=told.append)
    assert told == [40, 60, 70, 75, 80, 85, 90, 95, 100]


def test_purge_caps_groups(using: str) -> None:
    fill(using, 6, group="a", days=1)
    fill(using, 3, group="b", days=1)
    fill(using, 5, days=1)
    assert purge({"*": 10 * 86_400}, group_cap=4, using=using).deleted == 2
    assert len(left(using)) == 12
    # The newest stay.
    assert "SUCCESS-a-1-5" in left(using)
    assert "SUCCESS-a-1-0" not in left(using)


def test_purge_takes_old_groups_and_chords_along(using: str) -> None:
    old = now() - timedelta(days=30)
    for name, moment in (("old", old), ("new", now())):
        GroupResult.objects.store_group_result("", "", name, "[]", using)
        GroupSequence.objects.reserve(name, 1, using)
        ChordCounter.objects.start(name, 2, "[]", using)
        ChordCounter.objects.end_part(name, "t", using)
        GroupResult.objects.using(using).filter(group_id=name).update(date_done=moment)
        GroupSequence.objects.using(using).filter(group=name).update(date_done=moment)
        for model in (ChordCounter, ChordPart):
            model._base_manager.using(using).filter(group_id=name).update(date_created=moment)
    assert purge({"*": 86_400}, using=using).deleted == 4
    assert ChordPart.objects.using(using).get().group_id == "new"
    assert ChordCounter.objects.using(using).get().group_id == "new"


def open_group_and_chord(using: str, days: float) -> None:
    moment = now() - timedelta(days=days)
    GroupResult.objects.store_group_result("", "", "g", "[]", using)
    GroupSequence.objects.reserve("g", 1, using)
    ChordCounter.objects.start("g", 2, "[]", using)
    GroupResult.objects.using(using).update(date_done=moment)
    GroupSequence.objects.using(using).update(date_done=moment)
    ChordCounter.objects.using(using).update(date_created=moment)


@pytest.mark.parametrize("retention", [{"SUCCESS": 3600}, {"SUCCESS": 3600, "*": 5 * 86_400}])
def test_purge_keeps_groups_and_chords_as_long_as_any_state(
    using: str, retention: dict[str, float]
) -> None:
    open_group_and_chord(using, days=2)
    assert purge(retention, using=using).deleted == 0


def test_purge_keeps_groups_and_chords_for_as_long_as_records_live(
    using: str, settings: Any
) -> None:
    settings.ASYNC_CACHE = {"RESULTS": {"EXPIRES": 5 * 86_400}}
    open_group_and_chord(using, days=2)
    assert purge({"*": 3600}, using=using).deleted == 0


def test_purge_keeps_the_places_of_a_group_that_has_rows(using: str) -> None:
    open_group_and_chord(using, days=2)
    fill(using, 1, group="g")
    assert purge({"*": 3600}, using=using).deleted == 2
    assert GroupSequence.objects.reserve("g", 1, using) == 1
    TaskResult.objects.using(using).all().delete()
    GroupSequence.objects.using(using).update(date_done=now() - timedelta(days=2))
    assert purge({"*": 3600}, using=using).deleted == 1


def test_progress_is_shown_on_a_terminal_only(using: str) -> None:
    words = ("purge", "--keep", "*=1", "--database", using)
    fill(using, 3, days=3)
    assert "\rdeleted 3 rows" in run(*words, out=Terminal())
    fill(using, 3, days=3)
    assert "\r" not in run(*words)


@pytest.mark.parametrize("word", ["SUCCESS", "SUCCESS=x", "=3", "SUCCESS=-1", "A=inf"])
def test_a_bad_age_is_told(word: str) -> None:
    with pytest.raises(CommandError, match="STATE=SECONDS"):
        run("purge", "--keep", word)


# import_results

TABLES = {
    "taskresult": """
        id integer PRIMARY KEY, task_id varchar(255), task_name varchar(255), task_args text,
        task_kwargs text, status varchar(50), worker varchar(100), content_type varchar(128),
        content_encoding varchar(64), result text, date_created {time}, date_done {time},
        traceback text, meta text""",
    "groupresult": """
        id integer PRIMARY KEY, group_id varchar(255), date_created {time}, date_done {time},
        content_type varchar(128), content_encoding varchar(64), result text""",
    "chordcounter": """
        id integer PRIMARY KEY, group_id varchar(255), sub_tasks text, count integer""",
}
DONE = datetime(2020, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.fixture
def foreign(using: str) -> Iterator[str]:
    """The tables of django-celery-results, with some rows."""
    connection = connections[using]
    time = {"postgresql": "timestamptz", "mysql": "datetime(6)"}.get(connection.vendor, "datetime")
    moment = connection.ops.adapt_datetimefield_value(DONE)
    with connection.cursor() as cursor:
        for name, columns in TABLES.items():
            cursor.execute(
                f"CREATE TABLE django_celery_results_{name} ({columns.format(time=time)})"
            )
        for number in range(25):
            state = "FAILURE" if number % 5 == 0 else "SUCCESS"
            cursor.execute(
                "INSERT INTO django_celery_results_taskresult VALUES "
                "(%s, %s, 'shop.add', '(1,)', '{}', %s, 'w', 'application/json', 'utf-8', %s, "
                "%s, %s, NULL, '{}')",
                [number + 1, f"task-{number}", state, str(number), moment, moment],
            )
        cursor.execute(
            "INSERT INTO django_celery_results_groupresult VALUES "
            "(1, 'group', %s, %s, 'application/json', 'utf-8', '[]')",
            [moment, moment],
        )
        cursor.execute("INSERT INTO django_celery_results_chordcounter VALUES (1, 'c', '[]', 3)")
    yield using
    with connection.cursor() as cursor:
        for name in TABLES:
            cursor.execute(f"DROP TABLE django_celery_results_{name}")


@pytest.mark.parametrize("words", [("--group-cap", "0"), ("--group-cap", "-3"), ("--batch", "0")])
def test_a_bad_number_deletes_nothing(using: str, words: tuple[str, str]) -> None:
    DatabaseLayer(using).save(Record("task-1", state="SUCCESS", group="group", sequence=1))
    with pytest.raises(CommandError, match="must be 1 or more"):
        run("purge", *words, "--database", using)
    assert TaskResult.objects.using(using).count() == 1


def test_the_tables_of_django_celery_results_are_copied(foreign: str) -> None:
    DatabaseLayer(foreign).save(Record("task-3", state="STARTED", worker="mine"))
    words = ("import_results", "--database", foreign, "--batch", "10")
    said = run(*words)
    assert "24 of 25 rows" in said
    row = TaskResult.objects.using(foreign).get(task_id="task-4")
    assert (row.status, row.result, row.task_name, row.worker) == ("SUCCESS", "4", "shop.add", "w")
    assert row.date_done == row.date_created == row.date_finished == DONE
    assert row.rank == rank(0, "SUCCESS")
    failed = TaskResult.objects.using(foreign).get(task_id="task-5")
    assert (failed.status, failed.rank) == ("FAILURE", rank(0, "FAILURE"))
    metas: Any = TaskMeta.objects
    assert metas.using(foreign).get(task_id="task-4").result == 4
    # What is here stays.
    assert TaskResult.objects.using(foreign).get(task_id="task-3").worker == "mine"
    assert GroupResult.objects.using(foreign).get(group_id="group").date_done == DONE
    assert ChordCounter.objects.using(foreign).get(group_id="c").count == 3
    assert "0 of 25 rows" in run(*words)


@pytest.mark.parametrize("trusted", [False, True])
def test_pickled_results_are_read_where_they_are_trusted(foreign: str, trusted: bool) -> None:
    from celery.utils.serialization import b64encode

    made: Any = make_app(result_backend="async-cache-db", result_serializer="pickle")
    values: list[Any] = [(1, {2}), {"children": []}]
    pickled = [b64encode(pickle.dumps(value)) for value in values]
    with connections[foreign].cursor() as cursor:
        cursor.execute(
            "UPDATE django_celery_results_taskresult SET content_type = %s, content_encoding = %s, "
            "result = %s, meta = %s WHERE task_id = 'task-4'",
            ["application/x-python-serialize", "binary", *pickled],
        )
    run("import_results", "--database", foreign, *(["--trust-pickle"] if trusted else []))
    record = TaskResult.objects.using(foreign).get(task_id="task-4").to_record()
    if trusted:
        assert made.backend.meta_of(record)["result"] == (1, {2})
    else:
        with pytest.raises(RecordRejected, match="import_results --trust-pickle"):
            made.backend.meta_of(record)


def test_an_id_that_does_not_fit_is_told(foreign: str, settings: Any) -> None:
    with connections[foreign].cursor() as cursor:
        change = {"postgresql": "ALTER task_id TYPE", "mysql": "MODIFY task_id"}
        if connections[foreign].vendor in change:
            how = change[connections[foreign].vendor]
            cursor.execute(f"ALTER TABLE django_celery_results_taskresult {how} varchar(400)")
        cursor.execute(
            "UPDATE django_celery_results_taskresult SET task_id = %s WHERE id = 1", ["x" * 300]
        )
    assert "1 do not fit" in run("import_results", "--database", foreign)
    assert TaskResult.objects.using(foreign).count() == 24


def test_import_without_its_tables_says_so(using: str) -> None:
    with pytest.raises(CommandError, match="no table django_celery_results_taskresult"):
        run("import_results", "--database", using)


# resize_task_id


def lengths(using: str) -> dict[str, int | None]:
    connection = connections[using]
    with connection.cursor() as cursor:
        described = connection.introspection.get_table_description(
            cursor, TaskResult._meta.db_table
        )
    return {
        column.name: column.display_size or column.internal_size
        for column in described
        if column.name in {"task_id", "group", "task_name", "worker"}
    }


def set_length(settings: Any, length: int) -> None:
    """Set what a process would have read at its start."""
    settings.DJANGO_CELERY_RESULTS_TASK_ID_MAX_LENGTH = length
    for model in apps.get_app_config("async_cache_results").get_models():
        for field in model._meta.concrete_fields:
            if isinstance(field, IdField):
                field.max_length = length


def test_columns_take_the_length_of_the_setting(using: str, settings: Any) -> None:
    fill(using, 3, group="g")
    assert "have 255 characters" in run("resize_task_id", "--database", using)
    try:
        set_length(settings, 191)
        run("resize_task_id", "--database", using, "--dry-run")
        assert lengths(using)["task_id"] == 255
        said = run("resize_task_id", "--database", using)
        assert "async_cache_results_taskresult.task_id: 255 to 191" in said
        assert lengths(using) == {"task_id": 191, "group": 191, "task_name": 191, "worker": 100}
        assert len(left(using)) == 3
        assert DatabaseLayer(using).count("g") == (3, 0)
        assert "have 191 characters" in run("resize_task_id", "--database", using)
    finally:
        set_length(settings, 255)
        run("resize_task_id", "--database", using)
    assert lengths(using)["task_id"] == 255
    with connections[using].cursor() as cursor:
        found = connections[using].introspection.get_constraints(cursor, TaskResult._meta.db_table)
    assert {"acr_task_group", "acr_task_done", "acr_task_status", "acr_task_name"} <= set(found)


def test_no_id_is_cut(using: str, settings: Any) -> None:
    DatabaseLayer(using).save(Record("x" * 100))
    settings.DJANGO_CELERY_RESULTS_TASK_ID_MAX_LENGTH = 50
    with pytest.raises(CommandError, match="1 rows"):
        run("resize_task_id", "--database", using)
    assert lengths(using)["task_id"] == 255


def test_arguments_are_copied_without_their_quotes(foreign: str) -> None:
    with connections[foreign].cursor() as cursor:
        cursor.execute(
            "UPDATE django_celery_results_taskresult SET task_args = %s, task_kwargs = %s"
            " WHERE task_id = 'task-4'",
            ["\"(1, 'a\\\\n')\"", "\"{'b': 2}\""],
        )
    run("import_results", "--database", foreign)
    row = TaskResult.objects.using(foreign).get(task_id="task-4")
    assert (row.task_args, row.task_kwargs) == ("(1, 'a\\n')", "{'b': 2}")
    plain = TaskResult.objects.using(foreign).get(task_id="task-6")
    assert (plain.task_args, plain.task_kwargs) == ("(1,)", "{}")


def test_purge_within_a_transaction_of_the_caller(using: str) -> None:
    fill(using, 3, days=3)
    with transaction.atomic(using):
        assert purge({"*": 1}, using=using).deleted == 3
