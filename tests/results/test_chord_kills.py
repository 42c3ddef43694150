"""A child of a worker is killed while a part of a chord ends: the body runs nevertheless."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from celery import chord

from async_cache.results.models import ChordCounter, ChordPart
from tests.results import celery_tasks as tasks
from tests.results.celery_support import TASKS, backend_of
from tests.workers import WorkerProcess

StartWorker = Callable[..., WorkerProcess]
PATIENCE = 40.0

COUNTERS = "async_cache.results.counters.ChordCounterManager"
DATABASE = "async_cache.results.backends.database.DatabaseBackend"
CACHE = "async_cache.results.backends.cache.CacheBackend"
CHORDS = "async_cache.results.backends.chords.ChordsMixin"
REDIS = "async_cache.results.layers.redis.RedisLayer"


class Kill(NamedTuple):
    """Where a child is killed.

    Attributes:
        owner: Dotted path of the class.
        method: The method, at whose call it is killed.
        number: Which call of it.
        calls: How often the body runs at most.
    """

    owner: str
    method: str
    number: int
    calls: int


IN_DATABASE = [
    # Between the row and the count.
    Kill(COUNTERS, "end_part", 3, 1),
    # After the body was published, before the commit.
    Kill(COUNTERS, "finish", 1, 2),
    # After all were counted, before the body was published.
    Kill(DATABASE, "load_ready", 1, 1),
    # After the commit: Celery asks a second time.
    Kill(CHORDS, "on_chord_part_return", 3, 1),
]
IN_CACHE = [
    # Between the outcome and the count.
    Kill(REDIS, "count", 3, 1),
    # It was going to call the body.
    Kill(CACHE, "_call", 1, 1),
    # After the body was published, before the chord was closed.
    Kill(CACHE, "delete", 1, 2),
]


@pytest.fixture
def killed(
    settings: Any, redis_caches: Any, celery_worker_process: StartWorker, tmp_path: Path
) -> Callable[..., None]:
    """Return a function that runs a chord of three parts, while a child is killed."""
    settings.ASYNC_CACHE = {**settings.ASYNC_CACHE, "RESULTS": {"CACHE": "redis"}}

    def run(url: str, kill: Kill, **more: Any) -> None:
        overrides = {
            "CELERY_IMPORTS": [*TASKS["CELERY_IMPORTS"], "tests.results.chord_kills"],
            "CELERY_RESULT_BACKEND": url,
            "KILL_AT": kill.owner,
            "KILL_CALL": kill.method,
            "KILL_NUMBER": kill.number,
            "KILL_FILE": str(tmp_path / "calls"),
            **more,
        }
        lines = tmp_path / "lines"
        with backend_of(url):
            worker = celery_worker_process(overrides=overrides)
            header = [tasks.late.s(n) for n in range(3)]
            body: Any = chord(header)(tasks.note.s(str(lines)))
            assert body.get(timeout=PATIENCE) == [0, 1, 2]
            worker.wait_for(r"prematurely: signal 9|before the worker was lost")
            parts = body.parent.results
            assert [part.get(timeout=PATIENCE) for part in parts] == [0, 1, 2]
            # What the last part may have sent again comes before this.
            assert tasks.late.delay(7).get(timeout=PATIENCE) == 7
        assert 1 <= lines.read_text().count("called") <= kill.calls

    return run


def named(kill: Kill) -> str:
    return f"{kill.method}-{kill.number}"


@pytest.mark.integration
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("kill", IN_DATABASE, ids=named)
def test_a_kill_with_rows(killed: Callable[..., None], kill: Kill) -> None:
    killed("async-cache-db", kill)
    assert not ChordCounter.objects.exists()
    assert not ChordPart.objects.exists()


@pytest.mark.integration
@pytest.mark.django_db(databases=["default", "postgres"], transaction=True)
@pytest.mark.parametrize("kill", IN_DATABASE[:2], ids=named)
def test_a_kill_with_rows_on_postgres(
    killed: Callable[..., None], kill: Kill, settings: Any
) -> None:
    settings.DATABASE_ROUTERS = ["tests.results.databases.RowsOnPostgres"]
    killed("async-cache-db", kill, DATABASE_ROUTERS=settings.DATABASE_ROUTERS)
    assert ChordPart.objects.db == "postgres"
    assert not ChordCounter.objects.exists()
    assert not ChordPart.objects.exists()


@pytest.mark.integration
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("kill", IN_CACHE, ids=named)
def test_a_kill_with_a_cache(killed: Callable[..., None], kill: Kill) -> None:
    killed("async-cache", kill)
