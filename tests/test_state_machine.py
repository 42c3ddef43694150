"""Jobs against a small model: any verbs in any order, time both ways, fetches that end late."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from async_cache import MISSING, AsyncCacheJob, FetchUnavailable, guards, invalidate_tags
from async_cache.attempts import NO_ENTRY, Attempt, Purpose, State, new_token
from async_cache.effects import Io
from async_cache.entry import Status
from async_cache.fetching import Fetch, Fetched
from async_cache.reading import judge
from async_cache.refresh import refresh
from async_cache.stores.base import Level
from async_cache.testing import freeze

START = 1_700_000_000.0
EXAMPLES = int(os.environ.get("STATE_MACHINE_EXAMPLES", "300"))
TTL, GRACE, AHEAD = 60.0, 600.0, 5.0
TAG = "machine"
numbers = itertools.count()
keys = st.sampled_from(["a", "b"])


class Source:
    """What the jobs fetch from: a version a key, and whether it answers."""

    versions: ClassVar[dict[str, int]] = {}
    fails: ClassVar[bool] = False


class Local(AsyncCacheJob[Any]):
    name = "machine.local"
    ttl = TTL
    grace = GRACE
    jitter = 0
    wait = 0.005
    lease = 3600  # leases end by a rule, not by themselves
    cache = "default"
    dispatcher = "immediate"
    tags = (TAG,)

    def fetch(self, key: str) -> Any:
        if Source.fails:
            raise OSError(key)
        return Source.versions.get(key, 0)


class Remote(Local):
    name = "machine.remote"
    cache = "redis"


@dataclass(eq=False)
class Late:
    """A refresh whose fetch has begun and not ended."""

    steps: Any
    attempt: Attempt
    version: int
    started: float
    count: int
    hard: bool = False
    soft: bool = False


@dataclass
class Record:
    """What the model knows of a key."""

    value: int | None = None
    started: float = 0.0
    invalid: bool = False
    count: int = 0
    until: float = 0.0
    holder: Late | None = None
    late: list[Late] = field(default_factory=list)
    strays: bool = False


class Machine(RuleBasedStateMachine):
    """Does to a job and to the model the same, and compares what they say."""

    job_class: type[Local] = Local

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.clock = self.stack.enter_context(freeze(START))
        self.stack.enter_context(patch("random.random", lambda: 0.5))
        self.job = self.job_class()
        self.runtime = self.job._runtime
        self.prefix = f"{next(numbers)}-"
        self.records = {key: Record() for key in ("a", "b")}
        Source.versions, Source.fails = {}, False

    def teardown(self) -> None:
        for record in self.records.values():
            for late in list(record.late):
                self._kill(late)
        self.stack.close()

    # The model.

    def name(self, key: str) -> str:
        """Return a key that no other example uses."""
        return self.prefix + key

    def address(self, key: str) -> Any:
        return self.runtime.address((self.name(key),), {})

    def version(self, key: str) -> int:
        return Source.versions.get(self.name(key), 0)

    def change(self, key: str) -> None:
        Source.versions[self.name(key)] = self.version(key) + 1

    def status(self, record: Record) -> Status:
        now = self.clock.now()
        if record.value is None or now >= record.started + TTL + GRACE:
            return Status.MISS
        if record.invalid or now >= record.started + TTL or record.started > now + AHEAD:
            return Status.STALE
        return Status.FRESH

    def backs_off(self, record: Record) -> bool:
        return record.count > 0 and 0 < record.until - self.clock.now() <= 65.0

    def fetch_ends(self, record: Record, version: int, started: float) -> None:
        """Note a fetch that went well and was stored."""
        record.value, record.started, record.invalid = version, started, False
        record.count = 0

    def fails(self, record: Record, count: int) -> None:
        """Note one more failed fetch."""
        record.count = count + 1
        step = min(60.0, 2.0 ** (record.count - 1))
        record.until = float(f"{self.clock.now() + step * 0.75:.3f}")

    def fetches(self, key: str) -> None:
        """Note a fetch under a lease just won."""
        record = self.records[key]
        if Source.fails:
            self.fails(record, record.count)
            self.settle(key)
        else:
            self.fetch_ends(record, self.version(key), self.clock.now())
            record.strays = False

    def settle(self, key: str) -> None:
        """On a validated store, who follows a straggler makes the entry stale: see whether."""
        record = self.records[key]
        if record.strays and self.status(record) is Status.FRESH:
            assert self.runtime.store.level is Level.VALIDATED
            address = self.address(key)
            found = judge(self.runtime, address, self.runtime.store.read(address.handle))
            assert found is not None
            record.invalid = found[2].status is Status.STALE

    def expected(self, key: str) -> Any:
        """Return what a `get` answers, and do to the model what it does."""
        record = self.records[key]
        status = self.status(record)
        value: Any = record.value
        if status is Status.FRESH:
            return value
        idle = record.holder is None and not self.backs_off(record)
        if status is Status.MISS:
            if not idle:
                if record.holder is None:
                    self.settle(key)
                return FetchUnavailable
            value = OSError if Source.fails else self.version(key)
        if idle:
            self.fetches(key)
        return value

    # Reading.

    def compare(self, answer: Any, expected: Any) -> None:
        if isinstance(expected, type):
            assert type(answer) is expected
        else:
            assert answer == expected

    @rule(key=keys)
    def get(self, key: str) -> None:
        guards.forget()
        expected = self.expected(key)
        try:
            answer = self.job.get(self.name(key))
        except (OSError, FetchUnavailable) as error:
            answer = error
        self.compare(answer, expected)

    @rule(asked=st.lists(keys, unique=True))
    def get_many(self, asked: list[str]) -> None:
        guards.forget()
        expected = [self.expected(key) for key in asked]
        answers = self.job.get_many([(self.name(key),) for key in asked])
        for answer, one in zip(answers, expected, strict=True):
            self.compare(answer, one)

    @rule(key=keys)
    def peek(self, key: str) -> None:
        record = self.records[key]
        miss = self.status(record) is Status.MISS
        assert self.job.peek(self.name(key)) == (MISSING if miss else record.value)

    @rule(key=keys)
    def look(self, key: str) -> None:
        address = self.address(key)
        found = judge(self.runtime, address, self.runtime.store.read(address.handle))
        status = found[2].status if found is not None else Status.MISS
        assert status is self.status(self.records[key])

    @rule(key=keys)
    def refresh(self, key: str) -> None:
        record = self.records[key]
        expected: Any = FetchUnavailable
        if record.holder is None:
            expected = OSError if Source.fails else self.version(key)
        try:
            answer = self.job.refresh(self.name(key))
        except (OSError, FetchUnavailable) as error:
            answer = error
        self.compare(answer, expected)
        if record.holder is None:
            self.fetches(key)

    # Writing.

    def moved(self, chosen: list[str], *, hard: bool) -> None:
        for key in chosen:
            record = self.records[key]
            record.invalid = True
            if hard:
                record.value = None
            for late in record.late:
                late.hard, late.soft = late.hard or hard, True

    @rule(key=keys)
    def set(self, key: str) -> None:
        self.change(key)
        self.job.set(self.version(key), self.name(key))
        self.moved([key], hard=True)
        self.fetch_ends(self.records[key], self.version(key), self.clock.now())

    @rule(key=keys)
    def invalidate(self, key: str) -> None:
        self.change(key)
        self.job.invalidate(self.name(key))
        self.moved([key], hard=False)
        self.records[key].count = 0

    @rule(key=keys)
    def delete(self, key: str) -> None:
        self.change(key)
        self.job.delete(self.name(key))
        self.moved([key], hard=True)
        self.records[key].count = 0

    @rule()
    def clear(self) -> None:
        self.job.clear()
        self.moved(list(self.records), hard=True)

    @rule()
    def invalidate_tags(self) -> None:
        invalidate_tags(TAG, cache=self.runtime.alias)
        self.moved(list(self.records), hard=False)

    # The world.

    @rule(key=keys)
    def source_changes(self, key: str) -> None:
        self.change(key)

    @rule(fails=st.booleans())
    def source_fails(self, fails: bool) -> None:
        Source.fails = fails

    @rule(seconds=st.sampled_from([1, 4, 30, 61, 400, 700, -1, -30, -400]))
    def time_moves(self, seconds: int) -> None:
        self.clock.move_to(self.clock.now() + seconds)

    # Refreshes that end late.

    @rule(key=keys)
    def late_begins(self, key: str) -> None:
        record, address = self.records[key], self.address(key)
        attempt = Attempt(address, new_token(), NO_ENTRY)
        steps = refresh(self.runtime, [attempt], Purpose.FORCE)
        effect = self._go_on(steps)
        if record.holder is not None:
            assert effect is None
            assert attempt.state is State.LOST
            return
        assert isinstance(effect, Fetch)
        self.settle(key)
        late = Late(steps, attempt, self.version(key), self.clock.now(), record.count)
        record.holder = late
        record.late.append(late)

    def _go_on(self, steps: Any, answer: Any = None) -> Any:
        """Perform exchanges with the store until the protocol fetches or ends."""
        try:
            effect = steps.send(answer)
            while isinstance(effect, Io):
                effect = steps.send(effect.perform())
        except StopIteration:
            return None
        return effect

    def _some(self, data: st.DataObject) -> tuple[str, Late]:
        pairs = [(key, late) for key, record in self.records.items() for late in record.late]
        return data.draw(st.sampled_from(pairs))

    def any_late(self) -> bool:
        return any(record.late for record in self.records.values())

    @precondition(any_late)
    @rule(data=st.data(), fails=st.booleans())
    def late_ends(self, data: st.DataObject, fails: bool) -> None:
        key, late = self._some(data)
        record = self.records[key]
        record.late.remove(late)
        ours = record.holder is late
        got = Fetched(MISSING if fails else late.version, OSError() if fails else None,
                      late.started, 0.0)  # fmt: skip
        assert self._go_on(late.steps, [got]) is None
        if ours:
            record.holder = None
        if fails:
            self.fails(record, late.count)
            return
        assert (late.attempt.raw is not None) is (ours and not late.hard)
        if ours and not late.hard:
            self.fetch_ends(record, late.version, late.started)
            record.invalid = late.soft

    @precondition(any_late)
    @rule(data=st.data())
    def late_is_killed(self, data: st.DataObject) -> None:
        key, late = self._some(data)
        self.records[key].late.remove(late)
        self.records[key].strays = self.runtime.store.level is Level.VALIDATED
        self._kill(late)

    @staticmethod
    def _kill(late: Late) -> None:
        # A process that is killed gives nothing back: what it would still do is not done.
        late.steps.throw(SystemExit())
        with pytest.raises(SystemExit):
            late.steps.throw(SystemExit())

    @precondition(lambda self: any(record.holder for record in self.records.values()))
    @rule(data=st.data())
    def lease_ends(self, data: st.DataObject) -> None:
        held = [key for key, record in self.records.items() if record.holder is not None]
        key = data.draw(st.sampled_from(held))
        self.records[key].holder = None
        self.records[key].strays = self.runtime.store.level is Level.VALIDATED
        lease = self.address(key).lease
        self.runtime.store.remove([lease, lease + ".q"])


class RemoteMachine(Machine):
    job_class = Remote


def run(machine: type[Machine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=60,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.fixture(autouse=True)
def _no_guards() -> Iterator[None]:
    yield
    guards.forget()


def test_jobs_on_a_validated_store_do_what_the_model_does() -> None:
    run(Machine)


def test_jobs_on_a_fenced_store_do_what_the_model_does(redis_caches: str) -> None:
    run(RemoteMachine)
