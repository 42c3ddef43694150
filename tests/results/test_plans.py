"""Each question to the tables is answered by an index, also when they are large."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connections, models, transaction
from django.test.utils import CaptureQueriesContext

from async_cache.results import fetch_group
from async_cache.results.layers.database import DatabaseLayer
from async_cache.results.models import (
    ChordCounter,
    ChordPart,
    GroupResult,
    GroupSequence,
    TaskResult,
)
from async_cache.results.purging import by_state, delete_batches, delete_beyond_cap
from async_cache.results.records import Record
from async_cache.results.utils import now
from tests.results.databases import DATABASES, analyze, on_databases, planned

pytestmark = on_databases

ROWS = 2_000
OLD = datetime(2001, 1, 1, tzinfo=UTC)


@pytest.fixture(params=DATABASES)
def using(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def layer(using: str) -> DatabaseLayer:
    """Return a layer with many rows, a few hundred bytes each."""
    layer = DatabaseLayer(using)
    layer.save_many(
        [
            Record(
                f"t{n:05}",
                name=f"n{n % 500}",
                state="FAILURE" if n % 100 == 0 else "SUCCESS",
                group=f"g{n % 100}",
                sequence=n,
                traceback="x" * 300,
            )
            for n in range(ROWS)
        ]
    )
    analyze(using)
    return layer


def plan_of(using: str, work: Callable[[], object], start: str = "SELECT", place: int = 0) -> str:
    """Return the plan of a statement of a kind that some work sends; undo the work."""
    with transaction.atomic(using):
        with CaptureQueriesContext(connections[using]) as queries:
            work()
        transaction.set_rollback(True, using)
    sent = [query["sql"] for query in queries.captured_queries]
    return planned(using, [sql for sql in sent if sql.startswith(start)][place])


def expect(using: str, plan: str, index: str) -> None:
    assert index in plan
    assert "Seq Scan" not in plan
    if connections[using].vendor == "sqlite":
        assert "SCAN async" not in plan


def test_tasks_and_groups(layer: DatabaseLayer, using: str) -> None:
    asked: list[tuple[Callable[[], object], str]] = [
        (lambda: layer.get("t00007"), "task_id"),
        (lambda: layer.get_many(["t00007", "t00008"]), "task_id"),
        (lambda: layer.find("n7"), "acr_task_name"),
        (lambda: layer.group("g7"), "acr_task_group"),
        (lambda: layer.count("g7"), "acr_task_group"),
        (lambda: layer.changed([], ["g7", "g8"]), "acr_task_group"),
        (lambda: list(members(using)), "acr_task_group"),
        (lambda: list(members(using).exclude(success=False)), "acr_task_group"),
        (lambda: TaskResult.objects.db_manager(using).get_task("t00007"), "task_id"),
    ]
    for work, index in asked:
        expect(using, plan_of(using, work, place=-1), index)


def members(using: str) -> models.QuerySet[Any]:
    found = fetch_group("g7", cached=False)
    assert isinstance(found, models.QuerySet)
    return found.using(using)


def test_a_group_is_counted_in_its_index_alone(layer: DatabaseLayer, using: str) -> None:
    plan = plan_of(using, lambda: layer.count("g7"))
    words = {"sqlite": "COVERING INDEX", "postgresql": "Index", "mysql": "Using index"}
    assert words[connections[using].vendor] in plan


def test_a_group_is_deleted_by_its_index(layer: DatabaseLayer, using: str) -> None:
    for tasks, start in ((True, "DELETE FROM"), (False, "UPDATE")):
        plan = plan_of(using, lambda tasks=tasks: layer.delete_group("g9", tasks), start)  # type: ignore[misc]
        assert "group" in plan
        assert "Seq Scan" not in plan


def test_what_has_expired(layer: DatabaseLayer, using: str) -> None:
    manager = TaskResult.objects.db_manager(using)
    day = timedelta(days=1)
    expect(using, plan_of(using, lambda: list(manager.get_all_expired(day))), "acr_task_done")
    expect(using, plan_of(using, lambda: manager.delete_expired(day)), "acr_task_done")
    for where, _ in by_state({"FAILURE": 1.0, "*": 2.0}):
        index = "acr_task_done" if where.negated else "acr_task_status"

        def purge(where: models.Q = where) -> object:
            return delete_batches(TaskResult, using, where, now() + day, batch=100)

        expect(using, plan_of(using, purge), index)


def test_groups_over_their_cap(layer: DatabaseLayer, using: str) -> None:
    plan = plan_of(using, lambda: delete_beyond_cap(TaskResult, using, 20))
    words = {"sqlite": "COVERING INDEX acr_task_group", "postgresql": "", "mysql": "acr_task_group"}
    assert words[connections[using].vendor] in plan
    with CaptureQueriesContext(connections[using]) as queries:
        assert delete_beyond_cap(TaskResult, using, 19).deleted == 100
    oldest = next(q["sql"] for q in queries.captured_queries if "ORDER BY" in q["sql"])
    # PostgreSQL may walk along the times, where it will soon meet a member.
    expect(using, planned(using, oldest), "acr_task_")


@pytest.mark.parametrize(
    ("model", "field", "index"),
    [
        (GroupResult, "date_done", "acr_group_done"),
        (GroupSequence, "date_done", "acr_sequence_done"),
        (ChordCounter, "date_created", "acr_chord_created"),
        (ChordPart, "date_created", "acr_part_created"),
    ],
)
def test_what_is_purged_besides(
    using: str, model: type[models.Model], field: str, index: str
) -> None:
    key = "group" if model is GroupSequence else "group_id"
    counted = {"count": 1} if model is ChordCounter else {}
    rows = [model(**{key: f"g{n:05}"}, **counted) for n in range(ROWS)]
    model._base_manager.using(using).bulk_create(rows)
    analyze(using, model._meta.db_table)
    plan = plan_of(using, lambda: delete_batches(model, using, models.Q(), OLD, field=field))
    expect(using, plan, index)
