"""Layers against a model, and two writers of one cache under many orders of their commands."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from random import Random
from typing import Any

import pytest
from greenlet import getcurrent, greenlet
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from async_cache.results.layers import Layer, get_cache_layer
from async_cache.results.layers.cache import CacheLayer
from async_cache.results.layers.versions import Chains
from async_cache.results.records import NO_RECORD, Outcome, Record, in_call_order, merge
from async_cache.stores.registry import get_store

EXAMPLES = int(os.environ.get("STATE_MACHINE_EXAMPLES", "300")) // 10
SCHEDULES = int(os.environ.get("LAYER_SCHEDULES", "40"))
"""Orders that are tried of each pair of operations."""

NOW = 1_700_000_000.0
IDS, GROUPS = ("a", "b", "c"), ("g", "h")
STATES = ("PENDING", "STARTED", "PROGRESS", "RETRY", "FAILURE", "REVOKED", "SUCCESS")
_runs = itertools.count()


class LayerMachine(RuleBasedStateMachine):
    """A layer must do what a dict of records and the pure rules of `records` say."""

    layer: Layer

    def __init__(self) -> None:
        super().__init__()
        self.run = next(_runs)
        self.records: dict[str, Record] = {}

    @initialize()
    def begin(self) -> None:
        self.saves = 0

    def named(self, name: str) -> str:
        return f"{self.run}-{name}" if name else ""

    @rule(
        task_id=st.sampled_from(IDS),
        state=st.sampled_from(STATES),
        retries=st.integers(0, 2),
        group=st.sampled_from(("", "", *GROUPS)),
        sequence=st.one_of(st.none(), st.integers(1, 5)),
    )
    def save(
        self, task_id: str, state: str, retries: int, group: str, sequence: int | None
    ) -> None:
        self.saves += 1
        record = Record(
            self.named(task_id),
            name="task",
            state=state,
            retries=retries,
            group=self.named(group),
            sequence=sequence if group else None,
            finished=NOW + self.saves,
            worker=str(self.saves),
        )
        before = self.records.get(record.id, NO_RECORD)
        accepted = before is NO_RECORD or before.rank <= record.rank
        assert self.layer.save(record) is accepted
        if accepted:
            self.records[record.id] = merge(before, record)

    @rule(task_id=st.sampled_from(IDS))
    def deliver_again(self, task_id: str) -> None:
        record = self.records.get(self.named(task_id))
        if record is not None:
            assert self.layer.save(record)

    @rule(task_id=st.sampled_from(IDS))
    def forget(self, task_id: str) -> None:
        known = self.records.pop(self.named(task_id), None) is not None
        assert self.layer.forget(self.named(task_id)) is known

    @rule(group=st.sampled_from(GROUPS), tasks=st.booleans())
    def delete_group(self, group: str, tasks: bool) -> None:
        members = self.members(group)
        assert self.layer.delete_group(self.named(group), tasks) == len(members)
        for member in members:
            if tasks:
                del self.records[member.id]
            else:
                self.records[member.id] = member.replace(group="", sequence=None)

    @rule()
    def look(self) -> None:
        found = self.layer.get_many([self.named(task_id) for task_id in IDS])
        expected = [self.records.get(self.named(task_id), NO_RECORD) for task_id in IDS]
        assert found == expected
        for group in GROUPS:
            members = self.members(group)
            assert self.layer.group(self.named(group)) == members
            outcomes = [member.outcome for member in members]
            counted = (outcomes.count(Outcome.SUCCEEDED), outcomes.count(Outcome.FAILED))
            assert self.layer.count(self.named(group)) == counted

    def members(self, group: str) -> list[Record]:
        named = self.named(group)
        return in_call_order(r for r in self.records.values() if r.group == named)

    def teardown(self) -> None:
        self.look()


def run(layer: Layer) -> None:
    machine = type("Machine", (LayerMachine,), {"layer": layer})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("layer", ["redis", "locmem", "memcached"], indirect=True)
def test_a_layer_does_what_the_model_does(layer: Layer) -> None:
    run(layer)


# --- two at once ----------------------------------------------------------------------------------


@contextmanager
def interleaved(random: Random) -> Iterator[Callable[..., None]]:
    """Let operations take turns, one command of the store at a time."""
    store: Any = get_store("default")
    hub, perform = getcurrent(), store._perform

    def stopped(*args: Any) -> Any:
        if getcurrent() is not hub:
            hub.switch()
        return perform(*args)

    def play(*works: Callable[[], object]) -> None:
        actors = [greenlet(work, parent=hub) for work in works]
        while alive := [actor for actor in actors if not actor.dead]:
            random.choice(alive).switch()

    store._perform = stopped
    try:
        yield play
    finally:
        del store._perform


OPERATIONS: dict[str, Callable[[Layer, str], object]] = {
    "starts": lambda layer, run: layer.save(
        Record(f"{run}a", state="STARTED", group=f"{run}g", sequence=1)
    ),
    "fails": lambda layer, run: layer.save(
        Record(f"{run}a", state="FAILURE", group=f"{run}g", sequence=1, finished=NOW)
    ),
    "tries again": lambda layer, run: layer.save(
        Record(f"{run}a", state="STARTED", retries=1, group=f"{run}g", sequence=1)
    ),
    "succeeds": lambda layer, run: layer.save(
        Record(f"{run}a", state="SUCCESS", group=f"{run}g", sequence=1, finished=NOW)
    ),
    "another": lambda layer, run: layer.save(
        Record(f"{run}b", state="SUCCESS", group=f"{run}g", sequence=2, finished=NOW)
    ),
    "forgets": lambda layer, run: layer.forget(f"{run}a"),
    "drops the label": lambda layer, run: layer.delete_group(f"{run}g"),
}
SAVES = {"starts": 1, "fails": 3, "tries again": 9, "succeeds": 2**31 - 1}


def check_pair(
    layer: Layer, first: str, second: str, started: bool, schedules: int = SCHEDULES
) -> None:
    """Run two operations in many orders: the higher rank is kept, groups agree with records."""
    for seed in range(schedules):
        random = Random(f"{first} {second} {seed}")
        run = f"{next(_runs)}-"
        if started:
            OPERATIONS["starts"](layer, run)
        with interleaved(random) as play:
            play(*(partial(OPERATIONS[name], layer, run) for name in (first, second)))
        found = {r.id: r for r in layer.get_many([f"{run}a", f"{run}b"]) if r is not NO_RECORD}
        ranks = [SAVES[name] for name in (first, second) if name in SAVES]
        if started and "forgets" in (first, second):
            # To forget a task while it is saved is not one step: its place in the group may go,
            # or stay without it, until the group ends. The record is whole or gone.
            assert all(record.group == f"{run}g" for record in found.values()), f"seed {seed}"
            continue
        if ranks and "forgets" not in (first, second):
            highest = max([*ranks, SAVES["starts"] if started else -1])
            assert found[f"{run}a"].rank == highest, f"seed {seed}: a lower rank is kept"
        members = layer.group(f"{run}g")
        in_group = [record for record in found.values() if record.group == f"{run}g"]
        assert members == in_call_order(in_group), f"seed {seed}: members"
        outcomes = [member.outcome for member in members]
        counted = (outcomes.count(Outcome.SUCCEEDED), outcomes.count(Outcome.FAILED))
        assert layer.count(f"{run}g") == counted, f"seed {seed}: the count"


PAIRS = list(itertools.combinations_with_replacement(OPERATIONS, 2))


@pytest.mark.parametrize("layer", ["locmem"], indirect=True)
@pytest.mark.parametrize("started", [False, True], ids=["new", "started"])
@pytest.mark.parametrize(("first", "second"), PAIRS, ids=lambda name: name.replace(" ", "_"))
def test_two_at_once(layer: Layer, first: str, second: str, started: bool) -> None:
    check_pair(layer, first, second, started)


def _overwrite(
    chains: Chains, key: str, before: Any, place: Any, sealed: bytes, life: float
) -> bool:
    chains._access.store.delete_many([f"{key}.{before.number + 1}"])
    return bool(_extend(chains, key, before, place, sealed, life))


_extend = Chains.extend


@pytest.mark.parametrize(
    ("target", "name", "instead", "pair"),
    [
        (Chains, "extend", _overwrite, ("fails", "succeeds")),
        (CacheLayer, "_agree", lambda *args: None, ("fails", "tries again")),
    ],
    ids=["versions are overwritten", "slots do not agree"],
)
def test_the_search_finds_what_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
    target: type,
    name: str,
    instead: Any,
    pair: tuple[str, str],
) -> None:
    layer = get_cache_layer("default")
    monkeypatch.setattr(target, name, instead)
    with pytest.raises(AssertionError, match="seed"):
        check_pair(layer, *pair, started=True, schedules=1000)
