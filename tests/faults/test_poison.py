"""Row "poison": stored bytes never run code on a Redis store, and never fill the memory.

A process of its own reads the poison under an audit hook (`poisoned`), so that nothing that is run
by it runs here. `check_gadgets` lets it read every gadget in every disguise, `check_beneath` those
that other backends unpickle before us, `check_bombs` little that unpacks to much. `check_moved`
moves real entries and records to where they do not belong.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from django.core import checks
from django.core.cache import caches
from django.test import override_settings

from async_cache import MISSING, AsyncCacheJob
from async_cache.results import async_task, fetch, get_layer, result
from tests.faults.breaks import Break, caught
from tests.faults.scale import count, judge

ROOT = Path(__file__).parent.parent.parent
CAP = 16 << 20
SABOTAGE: Mapping[str, str] = {}
"""What the process that reads poison leaves out: a dotted path, and what stands there."""

UNPICKLING = {"database", "file", "memcached"}


def in_a_process(what: str, alias: str, url: str | None, tmp_path: Path, **more: Any) -> Any:
    """Let a process read poison; return what it says."""
    entry = caches.settings[alias]
    config = {
        "CACHES": {**caches.settings, alias: {**entry, "LOCATION": entry.get("LOCATION", "")}},
        "ASYNC_CACHE": {
            "CACHE": alias,
            "DISPATCHER": "immediate",
            "IO_TIMEOUT": 20,
            "MAX_VALUE_SIZE": CAP,
        },
    }
    options = {"what": what, "alias": alias, "url": url, "sabotage": dict(SABOTAGE), **more}
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
    env |= {"TEST_SETTINGS": json.dumps(config), "TEST_DIRECTORY": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.poisoned"],
        input=json.dumps(options),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=env,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout[done.stdout.index("{") :])


def check_gadgets(alias: str, url: str | None, tmp_path: Path) -> None:
    """Read each gadget as an entry, a stamp, a lease, a failure, a record: none is run."""
    told = in_a_process(
        "gadgets",
        alias,
        url,
        tmp_path,
        step=count(9, 1 if url else 3),
        results=bool(url and alias == "redis"),
    )
    assert {event for event, _ in told["control"]} >= {"pickle.find_class", "os.system"}, "blind"
    assert told["gadgets"] > 50
    assert told["reads"] > told["gadgets"]
    assert not told["seen"], f"{len(told['seen'])} executions: {told['seen'][:3]}"
    assert not told["wrong"], told["wrong"][:3]
    assert not told["errors"], told["errors"][:3]
    judge(f"poison {alias}/gadgets", "executions", len(told["seen"]), 0, generous=0)


def check_beneath(alias: str, tmp_path: Path) -> None:
    """Read what a backend unpickles itself: nothing of ours adds to it."""
    told = in_a_process("beneath", alias, None, tmp_path, step=count(9, 1))
    ours = [(event, who) for event, who in told["seen"] if who.startswith("async_cache")]
    assert not ours, ours[:3]
    theirs = {event for event, _ in told["seen"]}
    assert "os.system" in theirs, "the gadgets are blunt"
    assert not told["wrong"], told["wrong"][:3]
    assert not told["errors"], told["errors"][:3]


def check_bombs(alias: str, url: str | None, tmp_path: Path) -> None:
    """Read a megabyte that unpacks to a gigabyte, and values larger than any of ours."""
    told = in_a_process(
        "bombs", alias, url, tmp_path, size=count(64, 1024) << 20, large=4 * CAP, cap=CAP
    )
    packed = {name: peak for name, peak in told["peaks"].items() if "packed" in name}
    for name, (traced, resident) in packed.items():
        for how, peak in (("traced", traced), ("resident", resident)):
            judge(f"poison {alias}/{name}", f"{how}, of the cap", peak / CAP, 2, generous=2)
    assert not told["errors"], told["errors"][:3]
    assert not told["wrong"], told["wrong"][:3]


@pytest.mark.parametrize(
    "alias", ["redis", pytest.param("django_redis_builtin", marks=pytest.mark.faults)]
)
def test_gadgets_are_not_run(alias: str, redis_caches: str, tmp_path: Path) -> None:
    check_gadgets(alias, redis_caches, tmp_path)


OTHERS = ["default", "file", "database", "memcached"]


@pytest.fixture
def other(request: pytest.FixtureRequest, tmp_path: Path, settings: Any) -> str:
    """Return an alias of a cache that is no Redis, with files and tables of the test's own."""
    alias: str = request.param
    if alias == "memcached":
        request.getfixturevalue("memcached_cache")
    place = str(tmp_path / "cache")
    settings.CACHES = {
        **settings.CACHES,
        "file": {**settings.CACHES["file"], "LOCATION": place},
    }
    return alias


@pytest.mark.parametrize(
    "other",
    [pytest.param(name, marks=[] if name == "default" else pytest.mark.faults) for name in OTHERS],
    indirect=True,
)
def test_other_backends_hand_us_bytes_that_are_not_run(other: str, tmp_path: Path) -> None:
    check_gadgets(other, None, tmp_path)


@pytest.mark.parametrize(
    "other",
    [pytest.param(name, marks=[] if name == "file" else pytest.mark.faults) for name in OTHERS],
    indirect=True,
)
def test_other_backends_that_unpickle_are_not_made_worse(other: str, tmp_path: Path) -> None:
    check_beneath(other, tmp_path)
    with override_settings(ASYNC_CACHE={"CACHE": other, "DISPATCHER": "thread"}):
        found = checks.run_checks(tags=["async_cache"], include_deployment_checks=True)
    named = [f'CACHES["{other}"]' in one.msg for one in found if one.id == "async_cache.W102"]
    assert any(named) == (other in UNPICKLING), "the deploy check does not name it"


def test_bombs_do_not_fill_the_memory(redis_caches: str, tmp_path: Path) -> None:
    check_bombs("redis", redis_caches, tmp_path)


# --- what was sealed here, in another place ------------------------------------------------------


class Tenants(AsyncCacheJob[str]):
    """Its value tells whose it is."""

    ttl = 600
    jitter = 0
    owner = "nobody"

    def fetch(self, number: int) -> str:
        return f"{number} of {type(self).owner}"


class Others(Tenants):
    """Another job with the same calls."""


tenant = "one"


def by_tenant(key: str, prefix: str, version: int) -> str:
    """Make keys for the tenant of the moment."""
    return f"{tenant}:{prefix}:{version}:{key}"


def moved(settings: Any, url: str) -> dict[str, Callable[[], list[str]]]:
    """Return how an entry gets to where it does not belong; each gives what is read there."""
    base = settings.CACHES["redis"]
    settings.CACHES = {
        **settings.CACHES,
        "beside": {**base, "LOCATION": f"{url.rpartition('/')[0]}/7"},
        "prefixed": {**base, "KEY_PREFIX": "prefixed"},
        "tenants": {**base, "KEY_FUNCTION": "tests.faults.test_poison.by_tenant"},
    }
    settings.ASYNC_CACHE = {"CACHE": "redis", "DISPATCHER": "immediate", "IO_TIMEOUT": 10}

    def move(source: Any, number: int, target: Any, other: int) -> list[str]:
        Tenants.owner = Others.owner = "the first"
        source.refresh(number)
        return read(target, other, taken(source, number))

    def read(target: Any, number: int, raws: Sequence[bytes]) -> list[str]:
        Tenants.owner = Others.owner = "the second"
        place(target, number, raws)
        peeked = target.peek(number)
        place(target, number, raws)
        return [target.get(number), *([] if peeked is MISSING else [peeked])]

    def tenants() -> list[str]:
        global tenant
        try:
            tenant, job = "one", Tenants(cache="tenants")
            Tenants.owner = "the first"
            job.refresh(2)
            raws = taken(job, 2)
            tenant = "two"
            return read(Tenants(cache="tenants"), 2, raws)
        finally:
            tenant = "one"

    def replayed(undo: str) -> Callable[[], list[str]]:
        def run() -> list[str]:
            job = Tenants()
            Tenants.owner = "the first"
            job.refresh(2)
            raws = taken(job, 2)[:1]
            job.clear() if undo == "clear" else job.delete(2)
            return read(job, 2, raws)

        return run

    return {
        "another key": lambda: move(Tenants(), 1, Tenants(), 2),
        "another job": lambda: move(Others(), 2, Tenants(), 2),
        "another alias": lambda: move(Tenants(cache="beside"), 2, Tenants(), 2),
        "another prefix": lambda: move(Tenants(cache="prefixed"), 2, Tenants(), 2),
        "another tenant": tenants,
        "replayed after delete": replayed("delete"),
        "replayed after clear": replayed("clear"),
    }


@contextmanager
def beneath(job: Any, number: int) -> Iterator[tuple[redis.Redis, list[str]]]:
    """Give a client of a job's cache, and the keys of a call's entry and of its stamps there."""
    address = job._runtime.address((number,), {})
    cache: Any = caches[job._runtime.alias]
    location = cache._server if isinstance(cache._server, str) else cache._server[0]
    keys = [address.entry, *address.stamp_names(())]
    with redis.Redis.from_url(location) as client:
        yield client, [str(cache.make_key(key)) for key in keys]


def taken(job: Any, number: int) -> list[bytes]:
    """Return what is stored of a call, its stamps included, which are not sealed."""
    with beneath(job, number) as (client, keys):
        found: Any = client.mget(keys)
    assert None not in found
    return list(found)


def place(job: Any, number: int, raws: Sequence[bytes]) -> None:
    """Write it behind the cache's back."""
    with beneath(job, number) as (client, keys):
        for key, raw in zip(keys, raws, strict=False):
            client.set(key, raw, ex=600)


MOVES = (
    "another key",
    "another job",
    "another alias",
    "another prefix",
    "another tenant",
    "replayed after delete",
    "replayed after clear",
)


def check_moved(settings: Any, url: str, name: str) -> None:
    """Move a real entry to where it does not belong: it is a miss there."""
    assert moved(settings, url)[name]() == ["2 of the second"]


@pytest.mark.parametrize("name", MOVES)
def test_an_entry_in_another_place_is_a_miss(name: str, settings: Any, redis_caches: str) -> None:
    check_moved(settings, redis_caches, name)


def check_moved_records(settings: Any, url: str) -> None:
    """Give one task's record to another: nobody reads it there."""
    settings.ASYNC_CACHE = {"CACHE": "redis", "RESULTS": {"CACHE": "redis"}}
    layer: Any = get_layer(True)
    ids = [async_task("math.floor", number + 0.5, sync=True, cached=True) for number in range(2)]
    assert [result(one, cached=True) for one in ids] == [0, 1]
    keys = [
        str(caches["redis"].make_key(layer._names.record(layer._names.tail(one)))) for one in ids
    ]
    with redis.Redis.from_url(url) as client:
        first: Any = client.get(keys[0])
        client.set(keys[1], first)
    assert (result(ids[1], cached=True), fetch(ids[1], cached=True)) == (None, None)


def test_a_record_in_another_place_is_none(settings: Any, redis_caches: str) -> None:
    check_moved_records(settings, redis_caches)


# --- breaks -------------------------------------------------------------------------------------


def without(what: str, target: str, lets: str) -> Break:
    """Return a break of the code in the process that reads poison."""
    return Break(what, "tests.faults.test_poison.SABOTAGE", {target: lets})


@pytest.mark.faults
class TestBreaks:
    @pytest.mark.parametrize("module", ["entry", "results.sealed"])
    def test_without_the_seal(self, module: str, redis_caches: str, tmp_path: Path) -> None:
        broken = without("the seal is not checked", f"async_cache.{module}.compare_digest", "pass")
        said = caught(broken, lambda: check_gadgets("redis", redis_caches, tmp_path))
        assert "executions" in said

    @pytest.mark.parametrize("other", ["default"], indirect=True)
    def test_without_the_seal_elsewhere(self, other: str, tmp_path: Path) -> None:
        broken = without("the seal is not checked", "async_cache.entry.compare_digest", "pass")
        assert "executions" in caught(broken, lambda: check_gadgets(other, None, tmp_path))

    def test_without_a_bound(self, redis_caches: str, tmp_path: Path) -> None:
        broken = without("all of it is unpacked", "async_cache.serializers._decompress", "unpack")
        assert "of the cap" in caught(broken, lambda: check_bombs("redis", redis_caches, tmp_path))

    def test_without_the_key_in_the_seal(self, settings: Any, redis_caches: str) -> None:
        broken = Break("any key opens", "async_cache.keyring._framed", lambda data: b"")
        for name in MOVES[:5]:
            caught(broken, partial(check_moved, settings, redis_caches, name))

    def test_without_stamps(self, settings: Any, redis_caches: str) -> None:
        broken = Break(
            "stamps are not written", "async_cache.invalidation.apply", lambda *args, **named: None
        )
        for name in MOVES[5:]:
            caught(broken, partial(check_moved, settings, redis_caches, name))

    def test_without_the_id(self, settings: Any, redis_caches: str) -> None:
        broken = Break(
            "any task's record will do",
            "async_cache.results.layers.redis.opened",
            _opened_for_anybody,
        )
        caught(broken, lambda: check_moved_records(settings, redis_caches))


def _opened_for_anybody(raw: object, opener: Any, task_id: str | None = None) -> Any:
    from async_cache.results.layers.opening import opened

    return opened(raw, opener)
