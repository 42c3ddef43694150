"""Tables of many rows: the admin's list, and a purge of half of them."""

from __future__ import annotations

import random
import time
from datetime import timedelta
from statistics import median
from typing import Any, Final

from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client
from django.urls import reverse
from django_celery_results.models import TaskResult as PeerRow

from async_cache.results.models import TaskResult
from async_cache.results.upkeep import purge
from bench.figures import Figure
from bench.rounds import BASE, Run
from bench.timing import Case, batches, each, measure

__all__ = ["tables"]

PEER: Final = "django-celery-results"
DAY: Final = 86_400
LIMIT_MS: Final = 150.0

# Rows as a worker leaves them: ten task names, four workers, one failure in twenty. The even ones
# are from the last half day, the odd ones a day older.
_COMMON: Final = {
    "task_id": "md5({salt} || n)::uuid::text",
    "task_name": "'shop.tasks.name_' || n %% 10",
    "task_args": "'\"(' || n || ', 8)\"'",
    "task_kwargs": "'\"{{}}\"'",
    "status": "CASE WHEN n %% 20 = 0 THEN 'FAILURE' ELSE 'SUCCESS' END",
    "worker": "'worker-' || n %% 4 || '@bench'",
    "content_type": "'application/json'",
    "content_encoding": "'utf-8'",
    "result": '\'{{"total": \' || n || \', "names": ["bob", "eve"], "done": true}}\'',
    "meta": "'{{\"children\": []}}'",
    "date_created": "{when}",
    "date_started": "{when}",
    "date_done": "{when}",
}
_OURS: Final = {
    **_COMMON,
    "retries": "0",
    "rank": "CASE WHEN n %% 20 = 0 THEN 3 ELSE 2147483647 END",
    "hidden": "false",
    "date_finished": "{when}",
}
_WHEN: Final = "now() - make_interval(secs => (n::float / {size} / 2 + n %% 2) * 86400)"


def fill(model: Any, columns: dict[str, str], size: int, *, old: bool = False) -> None:
    """Insert rows in one statement.

    Args:
        model: The table.
        columns: SQL for each column.
        size: How many rows; half of them are more than a day old.
        old: Insert only these.
    """
    when = _WHEN.format(size=size)
    salt = str(random.getrandbits(60))
    values = ", ".join(sql.format(when=when, salt=f"'{salt}'") for sql in columns.values())
    rows = f"generate_series(1, {size}) n" + (" WHERE n %% 2 = 1" if old else "")
    table = model._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM {rows}".replace(
                "%%", "%"
            )
        )


def _settle() -> None:
    """Let nobody pay for what another left: dead rows to vacuum, pages to bring to the disk."""
    with connection.cursor() as cursor:
        for model in (TaskResult, PeerRow):
            cursor.execute(f"VACUUM ANALYZE {model._meta.db_table}")
        cursor.execute("CHECKPOINT")


def tables(rounds: int, size: int) -> tuple[Run, tuple[Figure, ...]]:
    """Fill both tables, ask for their lists in turn, then purge them in turn."""
    fill(TaskResult, _OURS, size)
    fill(PeerRow, _COMMON, size)
    _settle()
    run = _lists(rounds)
    name = f"admin list of {size:,} rows"
    return run, (
        Figure(name, run.seconds(BASE) * 1e3, "ms", 100.0),
        Figure(f"{name}, {PEER}", run.seconds("peer") * 1e3, "ms"),
        Figure("the same, of one state", run.seconds("filtered") * 1e3, "ms"),
        Figure(f"the same, of one state, {PEER}", run.seconds("filtered, peer") * 1e3, "ms"),
        *_purges(max(1, rounds // 5), size),
    )


def _lists(rounds: int) -> Run:
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("bench"))

    def case(model: Any, query: str = "") -> Case:
        meta = model._meta
        url = reverse(f"admin:{meta.app_label}_{meta.model_name}_changelist") + query

        def ask() -> None:
            answer = client.get(url)
            assert answer.status_code == 200, answer.status_code
            assert answer.content.count(b"<tr") > 50, "the page has too few rows"

        return each(ask)

    return measure(
        {
            BASE: batches(case(TaskResult), 5),
            "peer": case(PeerRow),
            "filtered": batches(case(TaskResult, "?status=FAILURE"), 5),
            "filtered, peer": case(PeerRow, "?status__exact=FAILURE"),
        },
        rounds,
        block=0,
    )


class _Longest:
    """The longest time between two batches: no transaction took longer."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._last = time.perf_counter()

    def __call__(self, deleted: int) -> None:
        moment = time.perf_counter()
        self.seconds = max(self.seconds, moment - self._last)
        self._last = moment


def _purges(rounds: int, size: int) -> tuple[Figure, ...]:
    longest: list[float] = []
    total: list[float] = []
    one: list[float] = []
    for number in range(rounds):
        if number:
            fill(TaskResult, _OURS, size, old=True)
            fill(PeerRow, _COMMON, size, old=True)
        for ours in random.sample((True, False), 2):
            _settle()
            started = time.perf_counter()
            if ours:
                watch = _Longest()
                deleted = purge({"*": DAY}, progress=watch).deleted
                longest.append(watch.seconds)
                total.append(time.perf_counter() - started)
                assert deleted == size // 2, deleted
            else:
                PeerRow.objects.delete_expired(timedelta(seconds=DAY))
                one.append(time.perf_counter() - started)
                assert PeerRow.objects.count() == size // 2
    name = f"purge of {size // 2:,} of {size:,} rows"
    return (
        Figure(f"{name}: longest transaction", median(longest) * 1e3, "ms", LIMIT_MS),
        Figure("the longest of all rounds", max(longest) * 1e3, "ms"),
        Figure(f"its only transaction, {PEER}", median(one) * 1e3, "ms"),
        Figure(f"{name}: in all", median(total) * 1e3, "ms"),
    )
