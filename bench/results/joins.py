"""The results of a Celery group whose tasks have ended."""

from __future__ import annotations

import time
import warnings
from typing import Any, Final

from celery.result import AsyncResult, GroupResult

from bench.figures import Figure
from bench.results.peers import OURS, PEER, celery_app, new_id, request
from bench.results.settings import REDIS_URL
from bench.rounds import BASE, Run
from bench.timing import Case, batches, measure

__all__ = ["joins"]

TASKS: Final = 10
LIMIT_MS: Final = 20.0
CASES: Final = {
    "database": ("DatabaseBackend, PostgreSQL", OURS),
    "through": ("write-through, Redis", "async-cache-redis"),
    "cache": ("CacheBackend, Redis", "async-cache"),
}


def _get(app: Any) -> Case:
    """Let a caller ask for tasks that nobody has asked for before."""

    def case(loops: int) -> float:
        taken = 0.0
        for _ in range(loops):
            ids = [new_id() for _ in range(TASKS)]
            for number, task_id in enumerate(ids):
                app.backend.store_result(task_id, number, "SUCCESS", request=request(task_id))
            started = time.perf_counter()
            results: list[Any] = [AsyncResult(task_id, app=app) for task_id in ids]
            found = GroupResult(new_id(), results, app=app).get(timeout=20)
            taken += time.perf_counter() - started
            assert found == list(range(TASKS)), found
        return taken

    return case


def joins(rounds: int) -> tuple[Run, tuple[Figure, ...]]:
    """Ask each backend for the values of ten tasks that have ended."""
    warnings.simplefilter("ignore")  # Celery's on in-memory transports
    backends = {BASE: CASES["database"][1], "celery": REDIS_URL, "peer": PEER}
    backends |= {name: backend for name, (_, backend) in CASES.items() if name != "database"}
    run = measure(
        {name: batches(_get(celery_app(backend)), 5) for name, backend in backends.items()},
        rounds,
        block=0,
    )
    title = f"GroupResult.get() of {TASKS}"
    return run, (
        Figure(f"{title}, {CASES['database'][0]}", run.seconds(BASE) * 1e3, "ms", LIMIT_MS),
        *(
            Figure(f"{title}, {CASES[name][0]}", run.seconds(name) * 1e3, "ms", LIMIT_MS)
            for name in ("through", "cache")
        ),
        Figure(f"{title}, Celery's own, Redis", run.seconds("celery") * 1e3, "ms"),
        Figure(f"{title}, django-celery-results, PostgreSQL", run.seconds("peer") * 1e3, "ms"),
    )
