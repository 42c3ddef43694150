"""Row "late writers": what was fetched before a change is never shown after it.

`check_late_writers` stops a refresh before each command that it sends to a real cache, and lets
others change the key there: invalidate, set, delete, clear, a tag's invalidation; in some rounds
the cache is flushed too, or the lease ends and another refreshes. From the change on a reader
looks before every command that is left, and after the last.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import pytest
from django.core.cache import caches
from django.core.management import call_command

from async_cache import AsyncCacheJob, FetchContext, invalidate_tags
from async_cache.entry import Header, Status
from async_cache.exceptions import StoreUnavailable
from async_cache.policy import Decision, decide
from async_cache.reading import judge
from async_cache.stores.base import Commit, Level, Store
from async_cache.stores.exchanges import Exchanges
from async_cache.stores.registry import get_store
from tests.faults.breaks import Break, caught
from tests.faults.scale import count
from tests.faults.scale import judge as judge_figure
from tests.faults.steps import Steps, stepping

ROUNDS = {
    "redis": (60, 2600),
    "memcached": (60, 1500),
    "postgres": (30, 750),
    "sqlite": (30, 750),
}
SOFT = ("invalidate", "invalidate_tags", "invalidate_decided")
HARD = ("delete", "clear")
VERBS = (*SOFT, *HARD, "set")


class Late(AsyncCacheJob[tuple[str, int]]):
    """What it fetches is the number of changes that the fetch has seen."""

    ttl = 3600
    lease = 60
    wait = 5
    tags = ("all",)
    source: ClassVar[dict[str, int]] = {}
    steps: ClassVar[Steps]

    def fetch(self, key: str, *, ctx: FetchContext) -> tuple[str, int]:
        seen = self.source.get(key, 0)
        ctx.add_tags("decided")
        self.steps.stop()
        return key, seen


class Round:
    """One refresh, one change, and what a reader sees.

    Args:
        store: The cache.
        key: A key of its own.
        verb: One of `VERBS`.
        at: The command before which the change is made.
        flush_at: The command before which the cache is emptied; 0 for none.
        taken_at: The command before which the lease ends and another refreshes; 0 for none.
    """

    def __init__(
        self, store: Store, key: str, verb: str, at: int, flush_at: int, taken_at: int
    ) -> None:
        self.store = store
        self.key = key
        self.verb = verb
        self.events: dict[int, list[Callable[[], None]]] = {}
        for number, event in ((flush_at, self.flush), (taken_at, self.take), (at, self.change)):
            if number:
                self.events.setdefault(number, []).append(event)
        self.flushed = self.changed = False
        self.job, self.reader = Late(), Late()
        self.misses = 0
        self.problems: list[str] = []

    def run(self, steps: Steps) -> None:
        steps.passed = 0
        steps.others = self.others
        try:
            self.job.refresh(self.key)
        except StoreUnavailable:
            assert self.flushed
        finally:
            steps.others = None
        for number in [number for number in sorted(self.events) if number > steps.passed]:
            steps.elsewhere(partial(self.others, number))
        steps.elsewhere(self.look)
        assert not self.problems, f"{self}: {self.problems}"

    def others(self, number: int) -> None:
        for event in self.events.pop(number, ()):
            event()
        self.look()

    def flush(self) -> None:
        self.flushed = True
        caches[self.store.alias].clear()

    def take(self) -> None:
        address = self.reader._runtime.address((self.key,), {})
        self.store.remove([address.lease, f"{address.lease}.q"])
        self.reader.refresh(self.key)

    def change(self) -> None:
        Late.source[self.key] = Late.source.get(self.key, 0) + 1
        if self.verb == "set":
            self.reader.set(("set", Late.source[self.key]), self.key)
        elif self.verb == "clear":
            self.reader.clear()
        elif self.verb in ("invalidate", "delete"):
            getattr(self.reader, self.verb)(self.key)
        else:
            invalidate_tags("all" if self.verb == "invalidate_tags" else "decided")
        self.changed = True

    def look(self) -> None:
        """Read as another process does; nothing older than the change is shown.

        Inside a command an exception would be an outage of the cache: problems are kept.
        """
        if not self.changed:
            return
        runtime = self.reader._runtime
        address = runtime.address((self.key,), {})
        found = judge(runtime, address, self.store.read(address.handle))
        if found is None:
            self.misses += 1
            kept = self.verb == "set" and self.store.level is Level.FENCED and not self.flushed
            self.problems += ["what was set is gone"] if kept else []
            return
        _, (_, seen), decision = found
        late = seen < Late.source[self.key]
        shown = decision.status is Status.FRESH if self.verb in SOFT else True
        if late and shown:
            self.problems.append(f"a late writer is visible, {decision.status}")

    def __str__(self) -> str:
        return f"{self.verb} of {self.key}"


def made_ready(kind: str, request: pytest.FixtureRequest) -> str:
    """Make a cache of a kind ready; return its alias."""
    use = request.getfixturevalue
    if kind in ("redis", "memcached"):
        use("redis_caches" if kind == "redis" else "memcached_cache")
        return kind
    if kind == "postgres":
        use("settings").DATABASE_ROUTERS = ["tests.stores.conftest.CacheRouter"]
        call_command("createcachetable", database="postgres")
    else:
        use("transactional_db")
    return "database"


on_postgres = pytest.mark.django_db(databases=["default", "postgres"], transaction=True)
on_sqlite = pytest.mark.django_db(transaction=True)
KINDS = [
    "redis",
    "memcached",
    pytest.param("postgres", marks=on_postgres),
    pytest.param("sqlite", marks=on_sqlite),
]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, settings: Any) -> str:
    alias = made_ready(request.param, request)
    caches[alias].clear()
    settings.ASYNC_CACHE = {"CACHE": alias, "DISPATCHER": "immediate", "IO_TIMEOUT": 10}
    Late.source.clear()
    return str(request.param)


def check_late_writers(kind: str, rounds: int) -> None:
    """Change a key before each command of its refresh, in some rounds amid other trouble."""
    store = get_store("database" if kind in ("postgres", "sqlite") else kind)
    chance = random.Random(kind)
    with stepping(store) as steps:
        Late.steps = steps
        longest, misses, late = 10, 0, 0
        for number in range(rounds):
            verb = VERBS[number % len(VERBS)]
            key = f"key{number}"
            if chance.random() < 0.5:
                Late().refresh(key)
            at, flush_at, taken_at = (chance.randint(1, longest + 1) for _ in range(3))
            flush_at *= chance.random() < 0.25
            taken_at *= chance.random() < 0.25
            one = Round(store, key, verb, at, flush_at, taken_at)
            try:
                one.run(steps)
            except AssertionError as error:
                error.add_note(f"{at=} {flush_at=} {taken_at=} of {steps.passed}")
                raise
            if not (flush_at or taken_at):
                longest = steps.passed
            late += at <= steps.passed
            misses += one.misses > 0 and verb == "set"
    assert late > rounds / 2, "hardly a change has come during a refresh"
    judge_figure(f"late writers/{kind}", f"visible of {late}", 0, 0, generous=0)
    judge_figure(f"late writers/{kind}", "sets that cost a miss", misses, late, generous=late)


def test_no_late_writer_is_visible(kind: str) -> None:
    check_late_writers(kind, count(*ROUNDS[kind]))


# --- breaks -------------------------------------------------------------------------------------


def _blind(header: Header, stamps: Any, *rest: Any) -> Decision:
    size = len(header.stamps) // len(stamps)
    seen = [header.stamps[at : at + size] for at in range(0, len(header.stamps), size)]
    return decide(header, seen, *rest)


_commit = Exchanges._commit


def _uncompared(exchanges: Exchanges, commit: Commit) -> Any:
    return _commit(exchanges, replace(commit, expect=()))


BLIND = Break("readers compare no stamps", "async_cache.reading.decide", _blind)
UNCOMPARED = Break(
    "commits compare no stamps", "async_cache.stores.exchanges.Exchanges._commit", _uncompared
)
TAGLESS = Break(
    "tags of the value are not recorded",
    "async_cache.writing.extend_tags",
    lambda tags, context: tags,
)


@pytest.mark.faults
def test_the_check_notices_readers_who_compare_no_stamps(kind: str) -> None:
    caught(BLIND, lambda: check_late_writers(kind, 60))


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["redis"], indirect=True)
@pytest.mark.parametrize("broken", [UNCOMPARED, TAGLESS], ids=str)
def test_the_check_notices(kind: str, broken: Break) -> None:
    caught(broken, lambda: check_late_writers(kind, 120))
