"""Who waits is told: by the store where it can tell, else by one thread that asks for all."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import redis
from asgiref.sync import sync_to_async
from django.db import connections, transaction
from django.test.utils import CaptureQueriesContext

from async_cache.results import waiting
from async_cache.results.layers import Layer
from async_cache.results.layers.base import Changed
from async_cache.results.layers.database import DatabaseLayer
from async_cache.results.models import TaskResult
from async_cache.results.records import NO_RECORD, NoRecord, Record
from async_cache.results.waiting import GROUP, NAME, TASK, Topic, listener, registry, waiters
from tests.results.conftest import CACHE_LAYERS, REDIS_LAYERS, build, on_postgres
from tests.results.test_layers import success
from tests.servers import RedisServer

PATIENCE = 30.0
NEVER = 1_000.0

on_sqlite = pytest.mark.django_db(transaction=True)
TELLING = [*REDIS_LAYERS, pytest.param("rows-postgres", marks=on_postgres)]
ROWS = pytest.param("rows-sqlite", marks=on_sqlite)


@pytest.fixture
def told_layer(request: pytest.FixtureRequest) -> Layer:
    kind = str(request.param)
    if kind == "rows-sqlite" and connections["default"].vendor != "sqlite":
        pytest.skip("the default database is another one")
    if kind.startswith("rows-"):
        return DatabaseLayer("postgres" if kind == "rows-postgres" else "default")
    return build(kind, request.getfixturevalue)


def over(*kinds: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("told_layer", kinds, indirect=True)


@pytest.fixture
def _no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the message of the store as the only way to be told."""
    monkeypatch.setattr(listener, "LOOK_SECONDS", NEVER)
    monkeypatch.setattr(waiting.asking, "OWN_LOOK", NEVER)


class Waiting:
    """A thread that waits for a task, or for members of a group."""

    def __init__(self, layer: Layer, topics: Mapping[Topic, int], seconds: float = PATIENCE):
        self.layer, self.topics, self.seconds = layer, topics, seconds
        self.asked = 0
        self.answer: Any = None
        self.error: BaseException | None = None
        self.took = 0.0
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _ask(self) -> bool:
        self.asked += 1
        [(topic, least)] = self.topics.items()
        if topic.kind == GROUP:
            return self.layer.count(topic.name).ended >= least
        found = self.layer.find(topic.name)
        return found is not NO_RECORD and found.ready

    def _run(self) -> None:
        started = time.monotonic()
        try:
            self.answer = waiting.wait_until(self.layer, self.topics, self._ask, bool, self.seconds)
        except BaseException as error:  # noqa: BLE001 - raised by join
            self.error = error
        finally:
            self.took = time.monotonic() - started
            connections.close_all()

    def join(self) -> bool:
        self.thread.join(PATIENCE + 30)
        assert not self.thread.is_alive()
        if self.error is not None:
            raise self.error
        # At the end of his time he looks anyhow: that is not to be told.
        assert not self.answer or self.took < self.seconds
        return bool(self.answer)


def task(task_id: str) -> dict[Topic, int]:
    return {Topic(TASK, task_id): 1}


def eventually(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def registered(number: int = 1) -> None:
    eventually(lambda: waiting.count_waiting() >= number, "nobody waits")


def connected() -> None:
    """Wait until the store tells, so that what comes next is told."""
    eventually(
        lambda: all(
            found._line.wire is not None and not found._roll._fresh
            for found in registry._listeners.by_layer.values()
        ),
        "no wire",
    )


def closing(work: Callable[[], object]) -> None:
    """Do something in a thread of its own, and leave no connection there."""
    try:
        work()
    finally:
        connections.close_all()


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


# Told.


@over(*TELLING)
@pytest.mark.usefixtures("_no_second_look")
def test_the_store_tells_of_tasks_names_and_groups(told_layer: Layer) -> None:
    assert told_layer.tells
    by_id = Waiting(told_layer, task("a"))
    by_name = Waiting(told_layer, {Topic(NAME, "winter"): 1})
    by_group = Waiting(told_layer, {Topic(GROUP, "g"): 2})
    registered(3)
    connected()
    told_layer.save(Record("a", state="STARTED", group="g"))
    told_layer.save(success("b", group="g"))
    assert by_group.thread.is_alive()
    told_layer.save(success("a", group="g", name="winter"))
    assert [by_id.join(), by_name.join(), by_group.join()] == [True] * 3
    # Once before, once when told.
    assert by_id.asked == 2
    assert by_group.asked <= 3
    assert waiting.count_waiting() == 0


@over(*CACHE_LAYERS, ROWS)
def test_where_the_store_does_not_tell_the_listener_asks(told_layer: Layer) -> None:
    assert not told_layer.tells
    one = Waiting(told_layer, task("a"))
    group = Waiting(told_layer, {Topic(GROUP, "g"): 2})
    registered(2)
    told_layer.save(success("b", group="g"))
    told_layer.save(success("a", group="g"))
    assert [one.join(), group.join()] == [True, True]
    assert (one.asked, group.asked) == (2, 2)


@over("redis", "locmem", pytest.param("rows-postgres", marks=on_postgres), ROWS)
def test_what_ends_between_the_first_look_and_the_roll_is_found(
    told_layer: Layer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting.asking, "OWN_LOOK", NEVER)
    monkeypatch.setattr(listener, "LOOK_SECONDS", NEVER)
    keep = Waiting(told_layer, task("other"))
    registered()
    looked: list[bool] = []

    def ask() -> bool:
        looked.append(True)
        found = told_layer.get("a")
        if len(looked) == 1:
            told_layer.save(success("a"))
        return found is not NO_RECORD

    assert waiting.wait_until(told_layer, task("a"), ask, bool, PATIENCE)
    assert len(looked) == 2
    told_layer.save(success("other"))
    assert keep.join()


@on_postgres
@pytest.mark.usefixtures("_no_second_look")
def test_buffered_rows_and_rows_of_a_transaction_are_told() -> None:
    layer = DatabaseLayer("postgres")
    many = Waiting(layer, {Topic(GROUP, "g"): 30})
    inside = Waiting(layer, task("inside"))
    registered(2)
    connected()
    layer.save_many([success(f"m{n}", group="g") for n in range(30)])
    assert many.join()
    with transaction.atomic(using="postgres"):
        TaskResult.objects.using("postgres").count()
        layer.save(success("inside"))
        # Told before the caller's transaction ends, and whichever way it does.
        assert inside.join()
        transaction.set_rollback(True, using="postgres")
    assert layer.get("inside") is not NO_RECORD


@on_postgres
@pytest.mark.usefixtures("_no_second_look")
def test_a_write_tells_only_when_somebody_listens() -> None:
    layer = DatabaseLayer("postgres")

    def told() -> bool:
        with CaptureQueriesContext(connections["postgres"]) as queries:
            layer.save(success(f"t{next(numbers)}"))
        return any(query["sql"].startswith("NOTIFY") for query in queries.captured_queries)

    numbers = itertools.count()
    assert not told()
    waits = Waiting(layer, task("a"))
    registered()
    connected()
    assert told()
    layer.save(success("a"))
    assert waits.join()
    waiting.stop()
    # The server notices the end of the listener's connection a moment later.
    eventually(lambda: not told(), "still told")


@on_postgres
@pytest.mark.usefixtures("_no_second_look")
def test_who_listens_looks_after_those_who_did_not_know() -> None:
    layer, rows = DatabaseLayer("postgres"), TaskResult.objects
    with transaction.atomic(using="postgres"):
        [row] = rows.write_rows([TaskResult.objects.row_of(success("a"))], "postgres")
        assert row.unheard  # type: ignore[attr-defined]
        waits = Waiting(layer, task("a"))
        registered()
        eventually(lambda: waits.asked, "not asked")
    # Committed without a word.
    assert waits.join()


# Lost messages.


@over(*REDIS_LAYERS)
def test_a_lost_connection_to_redis_is_a_delay(told_layer: Layer, redis_url: str) -> None:
    waits = Waiting(told_layer, task("a"))
    registered()
    connected()
    with redis.Redis.from_url(redis_url) as client:
        assert client.client_kill_filter(_type="pubsub") == 1
    told_layer.save(success("a"))
    assert waits.join()
    again = Waiting(told_layer, task("b"))
    registered()
    connected()
    told_layer.save(success("b"))
    assert again.join()


@on_postgres
def test_a_lost_connection_to_postgres_is_a_delay() -> None:
    layer = DatabaseLayer("postgres")
    waits = Waiting(layer, task("a"))
    registered()
    connected()
    with connections["postgres"].cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
            ["async_cache results"],
        )
        assert cursor.fetchall() == [(True,)]
    layer.save(success("a"))
    assert waits.join()


@on_postgres
def test_a_row_that_nobody_told_of_is_found(caplog: pytest.LogCaptureFixture) -> None:
    layer = DatabaseLayer("postgres")
    waits = Waiting(layer, task("a"))
    registered()
    connected()
    TaskResult.objects.using("postgres").create(
        task_id="a", status="SUCCESS", rank=success("a").rank
    )
    assert waits.join()
    assert "did not tell" in caplog.text


@on_postgres
def test_without_notify_it_is_asked(settings: Any) -> None:
    settings.ASYNC_CACHE = {"RESULTS": {"NOTIFY": False}}
    layer = DatabaseLayer("postgres")
    assert not layer.tells
    with CaptureQueriesContext(connections["postgres"]) as queries:
        layer.save(success("b"))
    assert not [q for q in queries.captured_queries if "notify" in q["sql"].lower()]
    waits = Waiting(layer, task("a"))
    registered()
    layer.save(success("a"))
    assert waits.join()


def test_an_outage_ends_no_wait(redis_server: RedisServer, settings: Any) -> None:
    from async_cache.results.layers import get_cache_layer

    settings.CACHES = {
        **settings.CACHES,
        "own": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": redis_server.url,
        },
    }
    layer = get_cache_layer("own")
    waits = Waiting(layer, task("a"), 2 * PATIENCE)
    registered()
    connected()
    redis_server.stop()
    eventually(
        lambda: next(iter(registry._listeners.by_layer.values()))._line.wire is None, "still there"
    )
    redis_server.start()

    def save() -> bool:
        try:
            return layer.save(success("a"))
        except Exception:  # noqa: BLE001 - not yet
            return False

    # Asked meanwhile, it does not answer.
    eventually(save, "Redis is not back")
    assert waits.join()


# One thread, one connection, one question.


@over(*TELLING)
def test_a_hundred_waiters_cost_one_thread_and_one_connection(
    told_layer: Layer, request: pytest.FixtureRequest
) -> None:
    def listeners() -> int:
        if isinstance(told_layer, DatabaseLayer):
            with connections["postgres"].cursor() as cursor:
                cursor.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s",
                    ["async_cache results"],
                )
                return int(cursor.fetchone()[0])
        with redis.Redis.from_url(request.getfixturevalue("redis_url")) as client:
            return len(client.client_list(_type="pubsub"))

    def save() -> None:
        for number in range(100):
            told_layer.save(success(f"t{number}"))

    async def wait(number: int) -> bool:
        def ask() -> bool:
            return told_layer.get(f"t{number}") is not NO_RECORD

        return await waiting.await_until(told_layer, task(f"t{number}"), ask, bool, PATIENCE)

    async def main() -> list[bool]:
        waits = asyncio.gather(*(wait(n) for n in range(100)))
        while waiting.count_waiting() < 100:
            await asyncio.sleep(0.01)
        for step in (connected, lambda: counted.append(listeners()), save):
            await asyncio.to_thread(closing, step)
        threads.extend(names())
        found = await waits
        await sync_to_async(connections.close_all)()
        return found

    counted: list[int] = []
    threads: list[str] = []
    assert all(asyncio.run(main()))
    assert counted == [1]
    assert threads.count("async_cache.waiting") == 1
    # Beside it: the main one, that of the coroutines' database work, and pytest's.
    assert len(threads) < 10


class Counting(DatabaseLayer):
    """Counts the questions of the listener, and of the waiters."""

    def __init__(self) -> None:
        super().__init__("default")
        self.questions = self.looks = 0

    def changed(self, *args: Any) -> Changed:
        self.questions += 1
        return super().changed(*args)

    def find(self, name_or_id: str) -> Record | NoRecord:
        self.looks += 1
        return super().find(name_or_id)


@on_sqlite
def test_fifty_waiters_ask_no_more_than_one() -> None:
    rates = {}
    for number in (1, 50):
        layer, begun = Counting(), time.monotonic()
        waits = [Waiting(layer, task(f"t{n}"), 1.0) for n in range(number)]
        assert not any(one.join() for one in waits)
        # Each looks at first and at the end; the listener looks for all.
        assert layer.looks == 2 * number
        rates[number] = layer.questions / (time.monotonic() - begun)
    # Questions in a second, as fifty waiters take a busy machine longer to begin and to end.
    assert 0 < rates[50] < 3 * rates[1]
    layer = Counting()
    with CaptureQueriesContext(connections["default"]) as queries:
        ids = [f"t{n}" for n in range(50)]
        layer.changed(ids, [f"g{n}" for n in range(50)], ids)
    assert len(queries) == 3


@on_postgres
def test_members_of_a_group_that_come_together_are_counted_together() -> None:
    layer = DatabaseLayer("postgres")
    waits = Waiting(layer, {Topic(GROUP, "g"): 50})
    registered()
    connected()
    for number in range(50):
        layer.save(success(f"m{number}", group="g"))
    assert waits.join()
    assert waits.asked == 2


def test_who_does_not_fit_on_the_roll_asks_for_himself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiters, "MAX_TOPICS", 1)
    layer = build("locmem", lambda name: None)
    waits = [Waiting(layer, task(task_id)) for task_id in "abc"]
    registered()
    eventually(lambda: sum(one.asked > 1 for one in waits) == 2, "the others do not ask")
    assert waiting.count_waiting() == 1
    for task_id in "abc":
        layer.save(success(task_id))
    assert all(one.join() for one in waits)


# Beginning and end.


@over("redis", pytest.param("rows-postgres", marks=on_postgres), ROWS)
def test_nothing_is_left_when_nobody_waits(
    told_layer: Layer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "IDLE_SECONDS", 0.1)
    monkeypatch.setattr(listener, "LOOK_SECONDS", 0.2)
    for task_id in "ab":
        waits = Waiting(told_layer, task(task_id))
        registered()
        told_layer.save(success(task_id))
        assert waits.join()
        eventually(lambda: "async_cache.waiting" not in names(), "the thread is still there")


@over("redis", "locmem")
def test_a_cancelled_wait_leaves_nothing(told_layer: Layer) -> None:
    async def main() -> None:
        wait = asyncio.ensure_future(
            waiting.await_until(told_layer, task("a"), lambda: False, bool, PATIENCE)
        )
        while not waiting.count_waiting():
            await asyncio.sleep(0.005)
        wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait

    asyncio.run(main())
    assert waiting.count_waiting() == 0
    # The loop is closed: nobody minds.
    told_layer.save(success("a"))


@over("redis", "locmem")
def test_time_is_over_for_threads_and_coroutines(told_layer: Layer) -> None:
    started = time.monotonic()
    assert not Waiting(told_layer, task("a"), 0.05).join()
    asked: list[int] = []

    def ask() -> bool:
        asked.append(1)
        return False

    async def main() -> bool:
        return await waiting.await_until(told_layer, task("a"), ask, bool, 0.05)

    assert not asyncio.run(main())
    assert len(asked) == 2
    assert 0.1 <= time.monotonic() - started < PATIENCE


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@over("redis", pytest.param("rows-postgres", marks=on_postgres))
@pytest.mark.usefixtures("_no_second_look")
def test_a_forked_child_has_a_listener_of_its_own(told_layer: Layer) -> None:
    mine = Waiting(told_layer, task("parent"))
    registered()
    connected()
    connections.close_all()
    ready, say = os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            assert waiting.count_waiting() == 0
            told = Waiting(told_layer, task("child"))
            registered()
            connected()
            os.write(say, b".")
            code = 0 if told.join() else 2
        finally:
            os._exit(code)
    os.close(say)
    assert os.read(ready, 1) == b"."
    os.close(ready)
    told_layer.save(success("child"))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    # The child's end did not disturb the parent's connection.
    told_layer.save(success("parent"))
    assert mine.join()
    assert mine.asked == 2


# Green threads.

GREEN = """
from gevent import monkey
monkey.patch_all()
import django, gevent
django.setup()
from async_cache.results import waiting
from async_cache.results.layers import get_cache_layer
from async_cache.results.records import Record
from async_cache.results.waiting import registry
layer = get_cache_layer("default")
topics = {waiting.Topic(waiting.TASK, "a"): 1}
done = lambda found: bool(found) and found.ready
wait = gevent.spawn(waiting.wait_until, layer, topics, lambda: layer.get("a"), done, 20)
gevent.sleep(0.05)
layer.save(Record("a", state="SUCCESS"))
assert wait.get(timeout=10).ready
assert not registry._listeners.by_layer
"""


def test_green_threads_ask_for_themselves() -> None:
    pytest.importorskip("gevent")
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
    done = subprocess.run(
        [sys.executable, "-c", GREEN], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(autouse=True)
def _nobody_waits_any_more() -> Iterator[None]:
    yield
    assert waiting.count_waiting() == 0
