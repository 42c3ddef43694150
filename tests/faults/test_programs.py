"""Row "transactions": only what is committed is stored or seen, and no invalidation is lost.

`check_programs` runs random programs of nested blocks, savepoints, rollbacks, IntegrityErrors,
writes with their invalidations, and reads, on two databases of PostgreSQL. Another caller, in a
thread of its own, reads, writes and looks at what the cache shows, between any two steps.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.cache import caches
from django.core.management import call_command
from django.db import connections

from async_cache import invalidation, signals
from tests.dispatchers.support import heard
from tests.faults.breaks import Break, caught
from tests.faults.programs import Observer, Program, Row
from tests.faults.scale import count, judge
from tests.stores.conftest import on_postgres

POSTGRES, SECOND = "postgres", "second"
LEVELS = ("READ COMMITTED", "REPEATABLE READ")

pytestmark = on_postgres


@pytest.fixture
def second() -> Iterator[Callable[[], None]]:
    """Make another database of the same server; return what connects a thread to it."""
    name = f"{connections[POSTGRES].settings_dict['NAME']}_{SECOND}"
    with connections[POSTGRES].cursor() as cursor:
        cursor.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        cursor.execute(f'CREATE DATABASE "{name}"')

    def connect() -> None:
        database = connections[POSTGRES].copy(SECOND)
        database.settings_dict["NAME"] = name
        # Django's tests refuse to open one whose alias they know.
        connections.settings.pop(SECOND, None)
        database.ensure_connection()
        connections.settings[SECOND] = database.settings_dict
        connections[SECOND] = database

    connect()
    try:
        yield connect
    finally:
        connections[SECOND].close()
        del connections[SECOND]
        del connections.settings[SECOND]
        with connections[POSTGRES].cursor() as cursor:
            cursor.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(params=["redis", "database"])
def cache(request: pytest.FixtureRequest, settings: Any) -> str:
    """Make Redis, or a DatabaseCache in the first of the databases, the cache."""
    alias = str(request.param)
    if alias == "redis":
        request.getfixturevalue("redis_caches")
    else:
        settings.DATABASE_ROUTERS = ["tests.stores.conftest.CacheRouter"]
        call_command("createcachetable", database=POSTGRES)
    caches[alias].clear()
    settings.ASYNC_CACHE = {"CACHE": alias, "DISPATCHER": "immediate", "IO_TIMEOUT": 10}
    return alias


def check_programs(cache: str, second: Callable[[], None], programs: int) -> None:
    """Run programs; the cache must never have waited for one of their transactions."""
    observer = Observer([POSTGRES, SECOND], second)
    ends: Counter[str] = Counter()
    Row.fetches = 0
    try:
        with heard(signals.store_failed) as outages:
            for seed in range(programs):
                level = LEVELS[seed % 2]
                program = Program([POSTGRES, SECOND], random.Random(seed), level, observer)
                try:
                    program.run()
                except BaseException as error:
                    error.add_note(f"program of seed {seed}, {level}")
                    raise
                ends.update(program.ends)
    finally:
        observer.close()
    # Past a second it would not have waited longer for a row, and said so.
    assert not outages, "the cache has waited for the caller's transaction"
    assert set(ends) >= {"end", "raise", "set_rollback"}
    assert Row.fetches > programs
    judge(f"transactions/{cache}", f"broken of {programs} programs", 0, 0, generous=0)


def test_only_what_is_committed_is_seen(cache: str, second: Callable[[], None]) -> None:
    check_programs(cache, second, count(40, 1400 if cache == "redis" else 600))


# --- breaks -------------------------------------------------------------------------------------


@pytest.mark.faults
@pytest.mark.parametrize("cache", ["redis"], indirect=True)
@pytest.mark.parametrize(
    "broken",
    [
        Break(
            "values are stored before the commit",
            "async_cache.fetching.transactions.current",
            lambda: None,
        ),
        Break(
            "what a snapshot shows is stored",
            "async_cache.transactions.Transaction.read_committed",
            lambda transaction: True,
        ),
        Break(
            "invalidations do not wait for the commit",
            "async_cache.invalidation.request",
            invalidation.apply,
        ),
        Break(
            "a transaction reads what it has invalidated",
            "async_cache.reading.transactions.is_invalidated",
            lambda names: False,
        ),
    ],
    ids=str,
)
def test_the_check_notices(cache: str, second: Callable[[], None], broken: Break) -> None:
    caught(broken, lambda: check_programs(cache, second, 300))


@pytest.mark.faults
@pytest.mark.parametrize("cache", ["database"], indirect=True)
def test_the_check_notices_a_cache_within_the_transaction(
    cache: str, second: Callable[[], None]
) -> None:
    broken = Break(
        "the cache's commands are part of the transaction",
        "async_cache.stores.database.in_transaction",
        lambda connection: False,
    )
    caught(broken, lambda: check_programs(cache, second, 20))
