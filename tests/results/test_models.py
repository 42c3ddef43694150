"""The models: their names, constants, and the rows under djcelery's names."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from django.core.management import call_command
from django.db.migrations.autodetector import MigrationAutodetector
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.state import ProjectState

from async_cache.exceptions import ConfigurationError
from async_cache.results import models
from async_cache.results.codec import encode_error, encode_value
from async_cache.results.layers.database import DatabaseLayer
from async_cache.results.models import GroupResult, TaskMeta, TaskResult, TaskSetMeta
from async_cache.results.records import Record, rank
from async_cache.results.rows import IdField, from_text, id_length, to_text

pytestmark = pytest.mark.django_db


def test_the_states_have_djcelerys_names() -> None:
    assert models.TASK_STATUS_PENDING == "PENDING"
    assert models.TASK_STATUS_RETRY == "RETRY"
    assert models.TASK_STATUS_FAILURE == "FAILURE"
    assert models.TASK_STATUS_DONE == "SUCCESS"
    assert {"PENDING", "RETRY", "FAILURE", "SUCCESS"} <= set(models.TASK_STATUSES)
    assert all(choice == (choice[0], choice[0]) for choice in models.TASK_STATUSES_CHOICES)
    assert len(models.TASK_STATUSES_CHOICES) == len(models.TASK_STATUSES)


def test_a_row_as_a_dict() -> None:
    row = TaskResult.objects.store_result("a/b", "utf-8", "t", "1", "SUCCESS", worker="w")
    said = row.as_dict()
    assert said["task_id"] == "t"
    assert said["date_done"] == row.date_done
    assert {"result": "1", "status": "SUCCESS", "worker": "w"}.items() <= said.items()
    assert {"task_name", "task_args", "task_kwargs", "traceback", "meta"} <= set(said)
    assert str(row) == "t (SUCCESS)"


def test_the_rank_follows_the_state_of_a_row_saved_by_hand() -> None:
    row = TaskResult.objects.create(task_id="t", status="FAILURE", retries=2)
    assert row.rank == rank(2, "FAILURE")
    row.status = "SUCCESS"
    row.save(update_fields=["status"])
    row.refresh_from_db()
    assert row.rank == rank(0, "SUCCESS")


def test_task_meta_gives_values_and_errors() -> None:
    metas: Any = TaskMeta.objects
    layer = DatabaseLayer()
    value, error = encode_value((1, {2}), "good"), encode_error(ValueError("no"))
    layer.save(Record("good", state="SUCCESS", **value._asdict()))
    layer.save(Record("bad", state="FAILURE", **error._asdict()))
    layer.save(Record("new", state="STARTED"))
    good: Any = metas.get(task_id="good")
    assert type(metas.first()) is TaskMeta
    assert good.result == (1, {2})
    assert metas.defer("result").get(task_id="good").result == (1, {2})
    failed = metas.get(task_id="bad").result
    assert (type(failed), failed.args) == (ValueError, ("no",))
    assert metas.get(task_id="new").result is None
    text = TaskResult.objects.get(task_id="good").result
    good.worker = "w"
    good.save()
    row = TaskResult.objects.get(task_id="good")
    assert (row.result, row.worker) == (text, "w")
    assert good.as_dict()["result"] == text


def test_task_set_meta_is_a_group_under_another_name() -> None:
    stored = GroupResult.objects.store_group_result("a", "utf-8", "g", "[]")
    sets: Any = TaskSetMeta
    found = sets.objects.get(taskset_id="g")
    assert (found.pk, found.taskset_id, found.group_id) == (stored.pk, "g", "g")
    made = sets(taskset_id="h")
    made.save()
    assert GroupResult.objects.get(group_id="h").as_dict()["group_id"] == "h"


def test_the_length_is_a_setting_that_model_and_migration_read(settings: Any) -> None:
    assert id_length() == 255
    settings.DJANGO_CELERY_RESULTS_TASK_ID_MAX_LENGTH = 191
    assert IdField().max_length == 191
    migration = importlib.import_module("async_cache.results.migrations.0001_initial").Migration
    operations = {operation.name: operation for operation in migration.operations}
    fields = dict(operations["TaskResult"].fields)
    assert fields["task_id"].clone().max_length == 191
    loader = MigrationLoader(None)
    state = loader.project_state()
    detector = MigrationAutodetector(
        state, ProjectState.from_apps(importlib.import_module("django.apps").apps)
    )
    assert "async_cache_results" not in detector.changes(graph=loader.graph)
    settings.DJANGO_CELERY_RESULTS_TASK_ID_MAX_LENGTH = "191"
    with pytest.raises(ConfigurationError, match="whole number"):
        id_length()


def test_no_model_lacks_its_migration() -> None:
    call_command("makemigrations", "async_cache_results", "--check", "--dry-run", verbosity=0)


@pytest.mark.parametrize("value", [b"", b"plain", "ünï".encode()])
def test_text_is_kept_as_it_is(value: bytes) -> None:
    assert from_text(to_text(value, "utf-8"), "utf-8") == value
    assert to_text(value, "utf-8") == value.decode()


def test_bytes_are_kept_in_base64() -> None:
    value = bytes(range(256))
    assert from_text(to_text(value, "pickle"), "pickle") == value
    assert from_text(to_text(value, "binary"), "binary") == value
