"""Row "forged": what was not sealed here, or not declared, runs nothing in a worker.

`check_forged` puts forged and fuzzed messages into the queue of a real worker, between genuine
ones: refreshes, calls of `async_task`, ticks, and bytes where the records of a group should be. The
worker tells what it has imported, fetched and called.

`tests.test_messages` and `tests.results.test_call_messages` do the parsing alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import redis
from django.core.cache import caches

from async_cache.keyring import KeyRing
from async_cache.keys import call
from async_cache.messages import RefreshItem, RefreshMessage, seal_message
from async_cache.results import async_task, count_group, get, get_layer, result_group
from async_cache.results.messages import CallMessage, seal_call
from async_cache.results.models import TaskResult
from async_cache.secret_keys import get_ring
from tests.celery_app import app
from tests.conftest import next_database
from tests.dispatchers.support import eventually
from tests.faults.breaks import Break, caught
from tests.faults.forged_jobs import Declared
from tests.faults.scale import count
from tests.workers import WorkerProcess

pytestmark = [pytest.mark.integration, pytest.mark.django_db(transaction=True)]

HERE = "tests.faults.forged_jobs"
WATCH = "tests.results.worker_functions"
PATIENCE = 60.0
UNTOUCHED = ("this", "antigravity")
SABOTAGE: tuple[str, ...] = ()
"""What the worker leaves out."""

Message = tuple[str, tuple[Any, ...], dict[str, Any]]
"""Name, arguments and keywords of a task."""


@pytest.fixture
def start(
    settings: Any, redis_caches: str, celery_worker_process: Callable[..., WorkerProcess]
) -> Callable[[], WorkerProcess]:
    settings.ASYNC_CACHE = {
        "CACHE": "redis",
        "DISPATCHER": "celery",
        "IO_TIMEOUT": 10.0,
        "PUBLISH_TIMEOUT": 10.0,
        "RESULTS": {"MAX_WAIT": PATIENCE},
    }

    def run() -> WorkerProcess:
        given = {
            "FORGED_EVERY": 3600,
            "SABOTAGE": SABOTAGE,
            "CELERY_IMPORTS": [HERE, "tests.faults.sabotage"],
        }
        return celery_worker_process(concurrency=1, overrides=given)

    return run


def refresh_of(key: str, **changes: Any) -> RefreshMessage:
    item = RefreshItem(call(key), "a" * 32, b"token", bytes(8))
    job = Declared().job_name
    return replace(RefreshMessage(job, 1, call(), (item,), expires_at=9e9), **changes)


def fuzzed(random: Random, text: str) -> str:
    """Return a text that differs."""
    at, end = sorted(random.choices(range(len(text) + 1), k=2))
    some = "".join(random.choices('0123456789abcdef{}[]",.:\x00\u00e9 ', k=random.randint(1, 5)))
    found = random.choice(
        [
            text[:at],
            text[:at] + text[end:],
            text[:at] + some + text[at:],
            text[:at] + some + text[at + len(some) :],
            text[:at] + text[at:end].swapcase() + text[end:] + " ",
            text.split(".", 2)[2],
            text.replace("1.", "0.", 1),
            "1." + "0" * 32 + "." + text.split(".", 2)[2],
        ]
    )
    return found if found != text else fuzzed(random, text)


ODD: tuple[Any, ...] = (None, 5, [], {}, "", "1.", ["1."], {"a": [1]}, 1e300, True, "x" * 300_000)

TICKS: tuple[tuple[Any, ...], ...] = (
    ("this.c",),
    ("tests.app.nowhere.Job",),
    ("async_cache.results.nowhere.Job", None, 60.0, 0, 1),
    (f"{HERE}.Declared", [["forged"]]),
    (f"{HERE}.Declared", [{"key": "forged"}], 60.0, 0, 1),
    (f"{HERE}.Declared", [["forged"]] * 500),
    (f"{HERE}.Declared", None, 60.0, 0, 0),
    (f"{HERE}.Declared", None, float("inf"), 0, 1),
    (f"{HERE}.Declared", None, 60.0, 0, 10**9),
    (f"{HERE}.Declared", None, -1.0, -1, 2),
    (f"{HERE}.Declared", None, None, None, 10**9),
    (f"{HERE}.Declared", "forged"),
    ([f"{HERE}.Declared"],),
)


def forged(random: Random) -> Iterator[Message]:
    """Yield messages without end: each kind, each way of forging it."""
    ours, others = get_ring(), KeyRing(["somebody else's"])
    while True:
        name = random.choice(UNTOUCHED)
        job = random.choice([f"{HERE}.Declared", f"{name}.c", "tests.app.nowhere.Job"])
        wish = refresh_of("forged", job=job, module=random.choice(["", name]))
        wanted = CallMessage("forged", random.choice([f"{name}.c", f"{HERE}.note"]), ("forged",))
        for text in (seal_message(wish, others), seal_call(wanted, ours)):
            yield "async_cache.refresh", (text,), {}
        for text in (seal_call(wanted, others), seal_message(wish, ours)):
            yield "async_cache.run", (text,), {}
        yield "async_cache.refresh", (fuzzed(random, seal_message(wish, ours)),), {}
        yield "async_cache.run", (fuzzed(random, seal_call(wanted, ours)),), {}
        task = random.choice(["async_cache.refresh", "async_cache.run"])
        yield task, (random.choice(ODD),), {}
        yield task, (), {"sealed": random.choice(ODD)}
        yield "async_cache.tick", random.choice(TICKS), {}
        if random.random() < 0.05:
            yield task, random.choice([(), (1, 2)]), {}
            yield "async_cache.tick", (), {"job": "this.c", "every": "x"}
            yield random.choice(["os.system", "async_cache.nothing"]), (":",), {}


def forge_records(url: str, random: Random) -> None:
    """Put bytes where the records of a group and of its members should be."""
    names: Any = get_layer(True)._names  # type: ignore[attr-defined]
    keys = [names.group("g"), names.name("a name"), names.record(names.tail("forged"))]
    with redis.Redis.from_url(url) as client:
        for key in keys:
            client.set(str(caches["redis"].make_key(key)), random.randbytes(60))


def told(worker: WorkerProcess, function: str) -> Any:
    return get(async_task(function, cached=True), wait=-1, cached=True)


def check_forged(start: Callable[[], WorkerProcess], url: str, number: int) -> None:
    """Send forged messages between genuine ones; only these are acted upon."""
    assert not set(UNTOUCHED) & set(sys.modules)
    worker, random, ring = start(), Random(9), get_ring()

    def genuine(name: str) -> None:
        app.send_task("async_cache.refresh", args=(seal_message(refresh_of(name), ring),))
        assert get(async_task(f"{HERE}.note", name, cached=True), wait=-1, cached=True) > 0
        app.send_task("async_cache.tick", args=(Declared().job_name,))

    # What is imported late is imported by these; from then on nothing is.
    genuine("warm")
    eventually(lambda: told(worker, f"{HERE}.fetched") == ["declared", "warm"], PATIENCE)
    app.send_task("async_cache.tick", args=("nowhere.Job",))  # looked for in the database
    assert get(async_task("math.floor", 2.5), wait=-1) == 2
    told(worker, f"{WATCH}.watch_imports")
    told(worker, f"{WATCH}.imports")
    forge_records(url, random)
    messages = forged(random)
    with app.producer_or_acquire() as producer:
        for _ in range(number):
            name, args, kwargs = next(messages)
            app.send_task(name, args=args, kwargs=kwargs, task_id="forged", producer=producer)
    with redis.Redis.from_url(next_database(url)) as broker:
        eventually(lambda: not broker.llen("celery"), 10 * PATIENCE)
    genuine("after")
    eventually(lambda: "after" in told(worker, f"{HERE}.fetched"), PATIENCE)
    assert told(worker, f"{WATCH}.imports") == [], "a forged message imports"
    assert told(worker, f"{HERE}.fetched") == ["after", "declared", "warm"], "a forged fetch"
    assert told(worker, f"{HERE}.called") == ["after", "warm"], "a forged call is made"
    assert not TaskResult.objects.filter(task_id="forged").exists()
    check_group(worker)
    said = [line for line in worker.log.splitlines() if " was dropped: " in line]
    assert 1 <= len(said) <= 8, "not once a minute"
    assert worker.running


def check_group(worker: WorkerProcess) -> None:
    """Use the group and the name whose records were forged."""
    ids = [
        async_task(f"{HERE}.note", "warm", group="h", task_name="a name", cached=True)
        for _ in range(3)
    ]
    assert all(get(one, wait=-1, cached=True) for one in ids)
    assert count_group("h", cached=True) == len(result_group("h", cached=True) or ()) == 3


def test_forged_messages_run_nothing(start: Callable[[], WorkerProcess], redis_caches: str) -> None:
    check_forged(start, redis_caches, count(300, 10_000))


BREAKS: Mapping[str, str] = {
    "seals are not checked": "async_cache.keyring.KeyRing.verify",
    "ticks are believed": "async_cache.schedules.tasks._is_ours",
}


@pytest.mark.faults
@pytest.mark.parametrize("what", BREAKS)
def test_the_check_notices(
    what: str, start: Callable[[], WorkerProcess], redis_caches: str
) -> None:
    broken = Break(what, "tests.faults.test_forged.SABOTAGE", (BREAKS[what],))
    said = caught(broken, lambda: check_forged(start, redis_caches, 300))
    assert "forged" in said
