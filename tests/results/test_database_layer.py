"""The layer of rows: the contract of all layers, and what only rows promise.

The contract suite runs here once more: on SQLite, PostgreSQL and, where asked for, MariaDB.
"""

# ruff: noqa: F403, F405  (the contract suite is imported whole)

from __future__ import annotations

from typing import Any

import pytest
from django.db import connections, transaction
from django.test.utils import CaptureQueriesContext

from async_cache.exceptions import StoreUnavailable, UnstorableValue
from async_cache.results import apart
from async_cache.results.codec import decode_value
from async_cache.results.exceptions import RecordRejected
from async_cache.results.layers import Layer, get_database_layer
from async_cache.results.layers.database import DatabaseLayer
from async_cache.results.models import TaskResult
from async_cache.results.records import NO_RECORD, Record
from async_cache.signals import entry_rejected
from tests.results.databases import DATABASES, on_databases
from tests.results.test_layers import *

pytestmark = on_databases


@pytest.fixture(params=DATABASES)
def using(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def layer(using: str) -> Layer:
    return DatabaseLayer(using)


# What differs from the contract: rows are ended by a purge, ids have a length, values a seal.


def test_a_record_ends(layer: Layer) -> None:  # type: ignore[no-redef]
    assert layer.save(success("a", 1), 0.001)
    assert layer.get("a") is not NO_RECORD


@pytest.mark.parametrize(  # type: ignore[no-redef]
    "task_id", ["with space", "ünï", "a:b", "a..b", "..", "1", "=", "%", "_"]
)
def test_any_text_is_an_id_a_name_and_a_group(layer: Layer, task_id: str) -> None:
    assert layer.save(success(task_id, 1, name=task_id, group=task_id))
    assert layer.save(success("other", 2, name=task_id + "'", group=task_id + "'"))
    assert stored(layer, task_id).id == task_id
    assert ids(layer.group(task_id)) == [task_id]
    assert layer.find(task_id) == stored(layer, task_id)


def test_an_id_longer_than_its_column_is_refused(layer: Layer) -> None:
    with pytest.raises(UnstorableValue, match="300 characters"):
        layer.save(success("x" * 300))


def test_a_record_of_another_secret_is_none(  # type: ignore[no-redef]
    layer: Layer, settings: Any
) -> None:
    layer.save(success("a", 1, group="g"))
    before = settings.SECRET_KEY
    settings.SECRET_KEY = "another"
    with pytest.raises(RecordRejected, match="seal"):
        decode_value(stored(layer, "a"))
    settings.SECRET_KEY_FALLBACKS = [before]
    assert decode_value(stored(layer, "a")) == 1


def test_a_value_moved_to_another_task_does_not_open(layer: Layer, using: str) -> None:
    layer.save(success("a", 1))
    layer.save(success("b", 2))
    text = TaskResult.objects.using(using).get(task_id="a").result
    TaskResult.objects.using(using).filter(task_id="b").update(result=text)
    with pytest.raises(RecordRejected, match="seal"):
        decode_value(stored(layer, "b"))


def test_a_damaged_row_is_no_record_and_is_told(layer: Layer, using: str) -> None:
    heard: list[str] = []

    def listen(key: str, **_: Any) -> None:
        heard.append(key)

    layer.save(success("a", 1, group="g"))
    TaskResult.objects.using(using).update(result="no base64!")
    entry_rejected.connect(listen)
    try:
        assert layer.get("a") is NO_RECORD
        assert layer.group("g") == []
    finally:
        entry_rejected.disconnect(listen)
    assert heard == ["a", "a"]


# Statements.


def test_each_operation_is_one_statement(layer: DatabaseLayer, using: str) -> None:
    def count(work: Any) -> int:
        with CaptureQueriesContext(connections[using]) as queries:
            work()
        sent = [query["sql"] for query in queries.captured_queries]
        return len([sql for sql in sent if not sql.startswith(("BEGIN", "COMMIT"))])

    layer.save(success("a", 1, group="g", name="n"))
    assert count(lambda: layer.save(success("b", 1, group="g"))) == 1
    assert count(lambda: layer.save(Record("b", state="STARTED"))) == 1
    assert count(lambda: layer.save_many([success(f"m{n}") for n in range(30)])) == 1
    assert count(lambda: layer.get_many([f"m{n}" for n in range(30)])) == 1
    assert count(lambda: layer.group("g")) == 1
    assert count(lambda: layer.count("g")) == 1
    assert count(lambda: layer.changed([f"m{n}" for n in range(30)], ["g", "h", "i"])) == 2
    assert count(lambda: layer.reserve("g", 5)) == 1
    assert count(lambda: layer.find("a")) == 1
    assert count(lambda: layer.forget("a")) == 1


def test_save_many_refuses_row_by_row(layer: DatabaseLayer) -> None:
    layer.save(success("a", "old"))
    assert layer.save_many([Record("a", state="STARTED"), success("b", "new")]) == 1
    assert decode_value(stored(layer, "a")) == "old"
    assert decode_value(stored(layer, "b")) == "new"


# Transactions.


def test_what_is_saved_in_a_transaction_survives_its_rollback(layer: Layer, using: str) -> None:
    with transaction.atomic(using):
        TaskResult.objects.using(using).create(task_id="mine")
        assert layer.save(success("a", 1, group="g"))
        first = layer.reserve("h")
        transaction.set_rollback(True, using)
    assert apart.flush(20)
    apart.close()
    assert decode_value(stored(layer, "a")) == 1
    assert layer.get("mine") is NO_RECORD
    if connections[using].vendor != "sqlite":
        assert layer.reserve("h") == first + 1


def test_a_database_that_fails_is_an_unavailable_store(layer: Layer, using: str) -> None:
    with connections[using].schema_editor() as editor:
        editor.alter_db_table(TaskResult, TaskResult._meta.db_table, "away")
    try:
        with pytest.raises(StoreUnavailable):
            layer.get("a")
        with pytest.raises(StoreUnavailable):
            layer.save(success("a"))
    finally:
        with connections[using].schema_editor() as editor:
            editor.alter_db_table(TaskResult, "away", TaskResult._meta.db_table)


def test_the_layer_of_the_database_is_the_one_asked_for() -> None:
    assert isinstance(get_database_layer(), DatabaseLayer)
    assert TaskResult.objects.row_of(Record("a"))["status"] == "PENDING"
