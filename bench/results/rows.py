"""Rows in PostgreSQL: one at a time, and in batches behind Redis."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from django.conf import settings
from django.test import override_settings
from django_celery_results.models import TaskResult as PeerRow

from async_cache.results.backends.buffer import flush_rows, get_buffer
from async_cache.results.models import TaskResult
from bench.figures import Figure
from bench.results.peers import OURS, PEER, celery_app, new_id, request
from bench.results.settings import REDIS_URL
from bench.rounds import BASE, Run
from bench.timing import Case, batches, each, measure

__all__ = ["rows"]

NAME: Final = "django-celery-results"
VALUE: Final = {"total": 17, "names": ["bob", "eve"], "done": True}


def _finish(backend: Any) -> Callable[[], object]:
    def store() -> None:
        task_id = new_id()
        backend.store_result(task_id, VALUE, "SUCCESS", request=request(task_id))

    return store


def _silent(backend: Any) -> Case:
    """Store without telling those who wait."""
    store = _finish(backend)
    section = {**settings.ASYNC_CACHE, "RESULTS": {"NOTIFY": False}}

    def case(loops: int) -> float:
        with override_settings(ASYNC_CACHE=section):
            store()  # the settings are read again
            return each(store)(loops)

    return case


def _start_and_finish(backend: Any) -> Callable[[], object]:
    def store() -> None:
        task_id = new_id()
        backend.store_result(task_id, None, "STARTED", request=request(task_id))
        backend.store_result(task_id, VALUE, "SUCCESS", request=request(task_id))

    return store


def _manager(model: Any) -> Callable[[], object]:
    def store() -> None:
        model.objects.store_result(
            "application/json",
            "utf-8",
            new_id(),
            '{"total": 17}',
            "SUCCESS",
            meta='{"children": []}',
            task_name="shop.tasks.add",
            task_args='"(7, 8)"',
            task_kwargs='"{}"',
            worker="worker@bench",
        )

    return store


def _buffered(backend: Any) -> Case:
    """Store results, and count the time until all rows are written."""

    def case(loops: int) -> float:
        started = time.perf_counter()
        for _ in range(loops):
            task_id = new_id()
            one: Any = request(task_id)
            one.persist = "buffered"
            backend.store_result(task_id, VALUE, "SUCCESS", request=one)
        flush_rows()
        return time.perf_counter() - started

    return case


def _rows_alone(database: Any) -> Case:
    """The same without Redis: what the rows cost."""

    def case(loops: int) -> float:
        started = time.perf_counter()
        buffer = get_buffer(TaskResult.objects.store_rows)
        for _ in range(loops):
            task_id = new_id()
            one = request(task_id)
            record = database.make_record(task_id, VALUE, "SUCCESS", None, one)
            buffer.put(database.make_row(record, one))
        flush_rows()
        return time.perf_counter() - started

    return case


def rows(rounds: int, size: int) -> tuple[Run, tuple[Figure, ...]]:
    """Compare how many outcomes a second are stored; django-celery-results is the base."""
    ours, peer = celery_app(OURS).backend, celery_app(PEER).backend
    through, redis = celery_app("async-cache-redis").backend, celery_app(REDIS_URL).backend
    cases: dict[str, Case] = {
        BASE: each(_finish(peer)),
        "ours": each(_finish(ours)),
        "silent": _silent(ours),
        "twice, peer": each(_start_and_finish(peer)),
        "twice": each(_start_and_finish(ours)),
        "manager, peer": each(_manager(PeerRow)),
        "manager": each(_manager(TaskResult)),
        "redis": each(_finish(redis)),
        "buffered": _buffered(through),
        "rows alone": _rows_alone(ours),
    }
    for case in cases.values():
        case(30)
    before = TaskResult.objects.count()
    cases["buffered"](size)
    assert TaskResult.objects.count() == before + size, "rows are missing"
    batch = max(1, size // 2)
    many = {"buffered": batch, "rows alone": batch}
    blocks = {name: batches(case, many.get(name, 10)) for name, case in cases.items()}
    run = measure(blocks, rounds, block=0)
    return run, (
        Figure(f"store_result / {NAME}", 1 / run.ratio("ours"), "x", least=1.5),
        Figure(f"store_result without NOTIFY / {NAME}", 1 / run.ratio("silent"), "x"),
        Figure(
            f"store_result of the manager / {NAME}",
            1 / run.ratio("manager", "manager, peer"),
            "x",
            least=1.5,
        ),
        Figure(f"STARTED, then SUCCESS / {NAME}", 1 / run.ratio("twice", "twice, peer"), "x"),
        Figure(f"buffered / {NAME}", 1 / run.ratio("buffered"), "x", least=10.0),
        Figure(f"buffered, without Redis / {NAME}", 1 / run.ratio("rows alone"), "x", least=10.0),
        Figure("buffered / Celery's own Redis backend", run.ratio("redis", "buffered"), "x"),
        Figure("store_result", 1 / run.seconds("ours"), "/s"),
        Figure(f"store_result, {NAME}", 1 / run.seconds(BASE), "/s"),
        Figure(f"buffered, {batch:,} at a time", 1 / run.seconds("buffered"), "/s"),
        Figure("Celery's own Redis backend, no rows", 1 / run.seconds("redis"), "/s"),
    )
