"""Tasks that are sent again."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from celery import current_app
from celery.signals import import_modules

from async_cache.control import NotSent
from async_cache.results.control import send_again
from async_cache.results.models import TaskResult


def test_a_task_that_this_process_has_not_imported_is_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "late_tasks.py").write_text(
        "from celery import shared_task\n"
        "@shared_task(name='late.add')\n"
        "def add(a, b):\n"
        "    return a + b\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    row = TaskResult(task_id="t", task_name="late.add", task_args="(1, 2)", task_kwargs="{}")

    def load(**_: object) -> None:
        importlib.import_module("late_tasks")

    always_eager = current_app.conf.task_always_eager
    current_app.conf.update(task_always_eager=True)
    try:
        with pytest.raises(NotSent, match="late"):
            send_again(row, object())
        # As autodiscover_tasks() does.
        import_modules.connect(load)
        assert send_again(row, object())
    finally:
        import_modules.disconnect(load)
        current_app.conf.update(task_always_eager=always_eager)
        current_app.tasks.pop("late.add", None)
