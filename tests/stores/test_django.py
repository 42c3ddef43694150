"""The store over any Django cache: faults, transactions, what it says of itself."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.db import connection, connections, transaction
from django.test import TestCase

from async_cache.exceptions import ConfigurationError, StoreUnavailable
from async_cache.stores.base import Level, Outcome, Phase, Store
from async_cache.stores.django import (
    DatabaseStore,
    DjangoStore,
    MemcachedStore,
    NullStore,
    make_django_store,
)
from async_cache.stores.redis import RedisStore
from async_cache.stores.registry import get_store
from tests.stores.conftest import LIFE, build, on_postgres
from tests.stores.test_contract import ask, entry, value, win


class Failing(LocMemCache):
    """Fails in the way that a test asks for."""

    error: Exception | None = None
    calls = 0

    def get_many(self, keys: Any, version: int | None = None) -> Any:
        type(self).calls += 1
        if self.error is not None:
            raise self.error
        return super().get_many(keys, version)

    def set(self, *args: Any, **options: Any) -> None:
        if not isinstance(self.error, BlockingIOError):
            super().set(*args, **options)


def use(settings: Any, **entry: Any) -> Store:
    settings.CACHES = {**settings.CACHES, "used": entry}
    return get_store("used")


@pytest.fixture
def failing(settings: Any) -> Iterator[Store]:
    Failing.calls, Failing.error = 0, None
    yield use(settings, BACKEND=f"{__name__}.Failing")
    Failing.error = None


def test_stores_say_what_they_can(settings: Any, redis_caches: str, memcached_cache: Any) -> None:
    def says(alias: str) -> tuple[type[Store], Level, bool, bool]:
        store = get_store(alias)
        return type(store), store.level, store.shares, store.elects

    assert says("default") == (DjangoStore, Level.VALIDATED, False, True)
    assert says("file") == (DjangoStore, Level.VALIDATED, True, False)
    assert says("memcached") == (MemcachedStore, Level.VALIDATED, True, True)
    assert says("dummy") == (NullStore, Level.VALIDATED, False, False)
    assert says("redis") == (RedisStore, Level.FENCED, True, True)
    assert says("django_redis_builtin") == (RedisStore, Level.FENCED, True, True)


def test_a_sharded_client_is_not_scripted(settings: Any, redis_url: str) -> None:
    options = {"CLIENT_CLASS": "django_redis.client.ShardClient"}
    store = use(
        settings,
        BACKEND="django_redis.cache.RedisCache",
        LOCATION=[redis_url, redis_url],
        OPTIONS=options,
    )
    assert type(store) is DjangoStore
    caches["used"].clear()
    win(store, b"a")


def test_an_unknown_alias_is_named(settings: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"'nope'.*default"):
        get_store("nope")


def test_an_outage_is_told_once_and_left_alone(failing: Store) -> None:
    Failing.error = ConnectionRefusedError("no")
    handle = failing.prepare(["a"])
    with pytest.raises(StoreUnavailable, match="get_many: ConnectionRefusedError") as caught:
        failing.read(handle)
    assert caught.value.__cause__ is Failing.error
    for _ in range(5):
        with pytest.raises(StoreUnavailable, match="a moment ago"):
            failing.claim([ask(b"a", Phase.QUEUED)])
    assert Failing.calls == 1
    Failing.error = None
    deadline = time.monotonic() + 30
    while True:
        try:
            assert failing.read(handle) == [None]
            break
        except StoreUnavailable:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_an_interrupt_passes_through(failing: Store) -> None:
    Failing.error = KeyboardInterrupt()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        failing.read(failing.prepare(["a"]))
    Failing.error = None
    assert failing.read(failing.prepare(["a"])) == [None]


def test_an_invalidation_that_was_not_taken_is_an_error(failing: Store) -> None:
    Failing.error = BlockingIOError()
    with pytest.raises(StoreUnavailable):
        failing.put([("a", b"1", 60)])


def test_a_value_that_does_not_unpickle_hides_no_other(file_cache: Any) -> None:
    store = get_store("file")
    store.put([("a", b"A", 60), ("b", b"B", 60)])
    path = Path(file_cache._key_to_file("a"))
    path.write_bytes(path.read_bytes()[:-3])
    assert store.read(store.prepare(["a", "b", "c"])) == [b"", b"B", None]
    assert store.read(store.prepare(["b"])) == [b"B"]


def test_what_is_no_bytes_does_not_pass_for_a_miss() -> None:
    caches["default"].set("a", {"some": "thing"})
    store = get_store("default")
    assert store.read(store.prepare(["a", "b"])) == [b"", None]


def test_a_value_too_large_for_memcached_is_an_error(memcached_cache: Any) -> None:
    store = get_store("memcached")
    win(store, b"a")
    with pytest.raises(StoreUnavailable, match="set_many"):
        store.commit([entry(b"a", b"x" * 2_000_000)])
    assert store.renew([("ac:k:l", b"a", 60)]) == [True]


def test_a_store_that_keeps_nothing_never_stands_in_the_way() -> None:
    store = get_store("dummy")
    for token in (b"a", b"b"):
        claimed = win(store, token)
        assert len(claimed.stamps) == 2
        assert claimed.values == (None, None)
    assert store.renew([("l", b"a", 1)]) == [True]
    assert store.commit([entry(b"a")]) == [Outcome.COMMITTED]
    store.put([("a", b"1", 60)])
    store.release([("l", b"a", "t")])
    assert store.holders(["l"]) == [None]
    assert value(store, "a") is None


def test_claims_cost_few_round_trips(settings: Any) -> None:
    class Counting(DjangoStore):
        trips = 0

        def _perform(self, cache: Any, method: str, *args: Any) -> Any:
            self.trips += 1
            return super()._perform(cache, method, *args)

    store = Counting("default", LIFE)
    extend = (("ac:job", 60.0),)
    win(store, b"a")  # makes the stamps, too
    store.commit([entry(b"a", extend=extend)])

    def trips(work: Any) -> int:
        before = store.trips
        work()
        return store.trips - before

    assert trips(lambda: win(store, b"b", Phase.QUEUED)) == 4
    assert trips(lambda: store.claim([ask(b"c", Phase.QUEUED)])) == 1
    assert trips(lambda: win(store, b"b")) == 5  # one of them ends the queued lease
    assert trips(lambda: store.claim([ask(b"c")])) == 2
    assert trips(lambda: store.commit([entry(b"b", extend=extend)])) == 4


# DatabaseCache and transactions.


@pytest.fixture
def on_pg(request: pytest.FixtureRequest) -> DatabaseStore:
    store = build("postgres", request)
    assert isinstance(store, DatabaseStore)
    return store


def elsewhere(work: Any) -> Any:
    """Run in another thread, on connections of its own."""
    result: list[Any] = []

    def run() -> None:
        try:
            result.append(work())
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    return result[0]


@on_postgres
def test_leases_and_stamps_do_not_wait_for_a_transaction(on_pg: DatabaseStore) -> None:
    with transaction.atomic("postgres"):
        assert on_pg.writable_now
        stamps = win(on_pg, b"a").stamps
        assert elsewhere(lambda: on_pg.claim([ask(b"b")]))[0].won is False
        assert elsewhere(lambda: on_pg.read(on_pg.prepare(["ac:job"]))) == [stamps[0]]
        elsewhere(lambda: on_pg.put([("ac:job", b"n" * 12, 60)]))
        assert value(on_pg, "ac:job") == b"n" * 12
        transaction.set_rollback(True, "postgres")
    assert value(on_pg, "ac:job") == b"n" * 12
    assert on_pg.commit([entry(b"a")]) == [Outcome.COMMITTED]


@on_postgres
def test_a_snapshot_shows_new_stamps(on_pg: DatabaseStore) -> None:
    pg = connections["postgres"]
    with transaction.atomic("postgres"):
        with pg.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("SELECT 1")
        on_pg.put([("a", b"1", 60)])
        elsewhere(lambda: on_pg.put([("a", b"2", 60)]))
        assert value(on_pg, "a") == b"2"


@on_postgres
def test_a_broken_transaction_can_still_read(on_pg: DatabaseStore) -> None:
    on_pg.put([("a", b"1", 60)])
    with transaction.atomic("postgres"):
        with pytest.raises(Exception, match="division"), connections["postgres"].cursor() as cursor:
            cursor.execute("SELECT 1/0")
        assert value(on_pg, "a") == b"1"
        transaction.set_rollback(True, "postgres")


@on_postgres
def test_autocommit_turned_off_is_a_transaction_too(on_pg: DatabaseStore) -> None:
    transaction.set_autocommit(False, "postgres")
    try:
        on_pg.put([("a", b"1", 60)])
        assert elsewhere(lambda: value(on_pg, "a")) == b"1"
    finally:
        transaction.rollback("postgres")
        transaction.set_autocommit(True, "postgres")


@on_postgres
def test_a_row_the_caller_has_locked_costs_a_bounded_wait(on_pg: DatabaseStore) -> None:
    on_pg.put([("a", b"1", 60)])
    with transaction.atomic("postgres"):
        caches["database"].set("a", "locks the row", 60)
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            on_pg.put([("a", b"2", 60)])
        assert time.monotonic() - started < 4


def sessions() -> set[int]:
    with connections["postgres"].cursor() as cursor:
        cursor.execute("SELECT pid FROM pg_stat_activity WHERE datname = current_database()")
        return {pid for (pid,) in cursor.fetchall()}


@on_postgres
def test_the_second_connection_ends_with_the_first(on_pg: DatabaseStore) -> None:
    before = sessions()
    with transaction.atomic("postgres"):
        value(on_pg, "a")
        value(on_pg, "b")
        second = sessions() - before
        assert len(second) == 1
    connections["postgres"].close()
    deadline = time.monotonic() + 30
    while sessions() & second:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@on_postgres
def test_the_second_connection_ends_where_an_event_loop_runs(on_pg: DatabaseStore) -> None:
    before = sessions()
    with transaction.atomic("postgres"):
        value(on_pg, "a")
        second = sessions() - before
    assert len(second) == 1
    first = connections["postgres"]

    async def collect() -> None:
        driver, first.connection = first.connection, None
        driver.close()
        del driver
        gc.collect()

    asyncio.run(collect())  # what a finalizer raises fails the test
    deadline = time.monotonic() + 30
    while sessions() & second:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.django_db(transaction=True)
def test_sqlite_cannot_write_inside_a_transaction(database_cache: Any) -> None:
    store = get_store("database")
    store.put([("a", b"1", 60)])
    assert store.writable_now
    with transaction.atomic():
        assert not store.writable_now
        assert value(store, "a") == b"1"
    assert store.writable_now


@pytest.mark.django_db(transaction=True)
def test_sqlite_elects_with_immediate_transactions_only(database_cache: Any) -> None:
    assert make_django_store("database", LIFE).elects
    options = connection.settings_dict["OPTIONS"]
    mode = options.pop("transaction_mode")
    try:
        assert not make_django_store("database", LIFE).elects
    finally:
        options["transaction_mode"] = mode


class InATestCase(TestCase):
    databases = {"default"}  # noqa: RUF012

    def test_the_test_s_own_transaction_is_none(self) -> None:
        store = get_store("database")
        assert store.writable_now
        win(store, b"a")
        with transaction.atomic():
            assert store.writable_now
            assert store.commit([entry(b"a")]) == [Outcome.COMMITTED]
