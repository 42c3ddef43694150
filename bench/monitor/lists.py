"""The admin's lists over a large table of tasks."""

from __future__ import annotations

from typing import Final

from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from async_cache.monitor.models import TaskState, WorkerState
from async_cache.monitor.moments import now
from bench.figures import Figure
from bench.rounds import BASE, Run
from bench.timing import Case, each, measure

__all__ = ["lists"]

PAGES: Final = {
    BASE: {},
    "one state": {"state": "FAILURE"},
    "a later page": {"p": "100"},
    "the beginning of a name": {"q": "shop.tasks.name_3"},
    "the beginning of an id": {"q": "0000123"},
}
LIMIT_MS: Final = 150.0


def fill(size: int) -> None:
    """Insert rows in one statement: ten names, four workers, one failure in twenty."""
    keys = WorkerState.objects.store({f"worker-{n}@bench": now() for n in range(4)})
    first = min(keys.values())
    sqlite = connection.vendor == "sqlite"
    numbers = f"WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM s WHERE n < {size}) "
    text = "printf('%07d', n)" if sqlite else "lpad(n::text, 7, '0')"
    when = (
        "datetime('now', '-' || n || ' seconds')" if sqlite else "now() - make_interval(secs => n)"
    )
    table = TaskState._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} (task_id, name, state, tstamp, args, traceback, runtime, "
            "retries, worker_id, hidden) "
            + (numbers if sqlite else "")
            + f"SELECT {text} || '-4c1e-11ee-be56-0242ac120002', 'shop.tasks.name_' || (n % 10), "
            f"CASE WHEN n % 20 = 0 THEN 'FAILURE' ELSE 'SUCCESS' END, {when}, '(1, 2)', "
            f"'a traceback of some length, of which the list shows nothing', 0.25, 0, "
            f"{first} + n % 4, false FROM "
            + ("s" if sqlite else f"generate_series(1, {size}) s(n)")
        )
        cursor.execute("ANALYZE" if sqlite else f"VACUUM ANALYZE {table}")


def lists(rounds: int, size: int) -> tuple[Run, tuple[Figure, ...]]:
    """Fill the table and ask for its list, in several ways in turn."""
    fill(size)
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("bench"))
    url = reverse("admin:async_cache_monitor_taskstate_changelist")

    def case(given: dict[str, str]) -> Case:
        def ask() -> None:
            answer = client.get(url, given)
            assert answer.status_code == 200, answer.status_code
            assert b"/change/" in answer.content, given

        return each(ask)

    with CaptureQueriesContext(connection) as queries:
        client.get(url)
        asked = len(queries)
    run = measure({name: case(given) for name, given in PAGES.items()}, rounds, block=0)
    where = "SQLite" if connection.vendor == "sqlite" else "PostgreSQL"
    return run, (
        Figure(f"list of {size:,} tasks, {where}", run.seconds(BASE) * 1e3, "ms", LIMIT_MS),
        *(
            Figure(f"the same, {name}", run.seconds(name) * 1e3, "ms", LIMIT_MS)
            for name in PAGES
            if name != BASE
        ),
        Figure("queries of a list, those of the session too", asked, ""),
    )
