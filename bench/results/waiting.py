"""How late a waiter is told: another process stores, this one waits."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter
from typing import Any, Final

from celery.result import AsyncResult
from django_q import tasks as q2
from django_q.brokers import get_broker
from django_q.monitor import save_cached, save_task

from async_cache.results import get_layer, result
from bench.figures import Figure
from bench.results.children import Child
from bench.results.peers import OURS, PEER, celery_app, new_id, outcome, package, request

__all__ = ["storers", "waiting"]

LIMIT_MS: Final = 5.0
SECONDS: Final = 20
DELAYS: Final = (0.25, 1.25)
"""Seconds before the store: longer than a peer's pause, so that chance decides where it falls."""
VALUE: Final = 7

CASES: Final = {
    "result": "result(wait=), PostgreSQL",
    "get": "AsyncResult.get(), DatabaseBackend, PostgreSQL",
    "result, Redis": "result(wait=, cached=True), Redis",
    "get, Redis": "AsyncResult.get(), write-through, Redis",
}
PEERS: Final = {
    "get, peer": "AsyncResult.get(), django-celery-results",
    "result, django-q2": "result(wait=), django-q2, PostgreSQL",
    "result, Redis, django-q2": "result(wait=, cached=True), django-q2, Redis",
}


def _apps() -> dict[str, Any]:
    return {
        "get": celery_app(OURS),
        "get,Redis": celery_app("async-cache-redis"),
        "get,peer": celery_app(PEER),
    }


def _key(name: str) -> str:
    return name.replace(" ", "")


def storers() -> Mapping[str, Callable[[str], object]]:
    """Return how each stores the outcome of a task, as the end of a worker's work."""

    def celery(app: Any) -> Callable[[str], object]:
        backend = app.backend
        return lambda task_id: backend.store_result(
            task_id, VALUE, "SUCCESS", request=request(task_id)
        )

    def record(cached: bool) -> Callable[[str], object]:
        layer = get_layer(cached)
        return lambda task_id: layer.save(outcome(0)._replace(**_identity(task_id)))

    broker = get_broker()
    found = {name: celery(app) for name, app in _apps().items()}
    found["result"] = record(False)
    found["result,Redis"] = record(True)
    found["result,django-q2"] = lambda task_id: save_task(
        {**package(0, cached=False), "id": task_id}, broker
    )
    found["result,Redis,django-q2"] = lambda task_id: save_cached(
        {**package(0), "id": task_id}, broker
    )
    return found


def _identity(task_id: str) -> dict[str, Any]:
    # A value is sealed for its task.
    from async_cache.results.codec import encode_value

    return {"id": task_id, **encode_value(VALUE, task_id)._asdict()}


def _waiters() -> Mapping[str, Callable[[str], object]]:
    def celery(app: Any) -> Callable[[str], object]:
        return lambda task_id: AsyncResult(task_id, app=app, backend=app.backend).get(SECONDS)

    wait = SECONDS * 1000
    found = {name: celery(app) for name, app in _apps().items()}
    found["result"] = lambda task_id: result(task_id, wait, cached=False)
    found["result,Redis"] = lambda task_id: result(task_id, wait, cached=True)
    found["result,django-q2"] = lambda task_id: q2.result(task_id, wait)
    found["result,Redis,django-q2"] = lambda task_id: q2.result(task_id, wait, cached=True)
    return found


def waiting(rounds: int) -> tuple[None, tuple[Figure, ...]]:
    """Wait for one task after another; an A/A pair would compare two waits, and tell nothing."""
    warnings.simplefilter("ignore")  # Celery's on in-memory transports
    waiters = _waiters()
    late: dict[str, list[float]] = {name: [] for name in waiters}
    whole: dict[str, list[float]] = {name: [] for name in waiters}
    order = list(waiters)
    with Child("store") as child:
        child.hear()
        for number in range(rounds + 1):
            random.shuffle(order)
            for name in order:
                task_id = new_id()
                child.say(f"{name} {task_id} {random.uniform(*DELAYS) if number else 0.1:.4f}")
                assert waiters[name](task_id) is not None, f"{name}: the wait ran out"
                told = perf_counter()
                before, after = map(float, child.hear().split())
                if number:  # the first round makes whatever is made only once
                    late[name].append(told - after)
                    whole[name].append(told - before)
    figures = []
    for name, title in {**CASES, **PEERS}.items():
        limit = LIMIT_MS if name in CASES else None
        value = median(late[_key(name)]) * 1e3
        figures.append(Figure(f"told: {title}", value, "ms", limit))
    for name, title in CASES.items():
        value = median(whole[_key(name)]) * 1e3
        figures.append(Figure(f"stored and told: {title}", value, "ms"))
    return None, tuple(figures)
