"""What every layer promises, run over all of them."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from django.db import connections

from async_cache.results.codec import decode_error, decode_value, encode_error, encode_value
from async_cache.results.layers import Layer
from async_cache.results.records import NO_RECORD, Record
from async_cache.signals import entry_rejected

NOW = 1_700_000_000.0


def success(task_id: str, value: object = None, **fields: Any) -> Record:
    encoded = encode_value(value, task_id)
    return Record(task_id, state="SUCCESS", finished=NOW, **{**encoded._asdict(), **fields})


def failure(task_id: str, **fields: Any) -> Record:
    encoded = encode_error(ValueError("no"))
    return Record(task_id, state="FAILURE", finished=NOW, **{**encoded._asdict(), **fields})


def stored(layer: Layer, task_id: str) -> Record:
    found = layer.get(task_id)
    assert found is not NO_RECORD
    return found


def ids(records: Sequence[Record]) -> list[str]:
    return [record.id for record in records]


def together(works: Sequence[Callable[[], object]]) -> None:
    """Run functions in threads that begin at the same time."""
    barrier = threading.Barrier(len(works))
    errors: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            barrier.wait(30)
            work()
        except BaseException as error:  # noqa: BLE001 - told below
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not errors, errors


# Records.


def test_a_record_comes_back_as_it_was(layer: Layer) -> None:
    record = success(
        "a3f1c6de-0b11-4f61-9d3e-1f6d1c1f2a3b", (0.0, [1], {2}), name="math.modf", retries=2,
        created=NOW, queued=NOW + 1, started=NOW + 2, worker="celery@here", group="modf",
        sequence=7, traceback="…", meta="{}", args="(1,)", kwargs="{}",
    )  # fmt: skip
    assert layer.save(record, 60)
    assert stored(layer, record.id) == record
    assert decode_value(stored(layer, record.id)) == (0.0, [1], {2})


@pytest.mark.parametrize("value", [None, 0, [], "", False, ()])
def test_an_empty_value_is_a_result_and_nothing_is_none(layer: Layer, value: object) -> None:
    assert layer.get("a") is NO_RECORD
    assert layer.save(success("a", value))
    found = decode_value(stored(layer, "a"))
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("task_id", ["x" * 300, "with space", "ünï", "a:b", "a..b", "..", "1", "="])
def test_any_text_is_an_id_a_name_and_a_group(layer: Layer, task_id: str) -> None:
    assert layer.save(success(task_id, 1, name=task_id, group=task_id))
    assert layer.save(success("other", 2, name=task_id + "'", group=task_id + "'"))
    assert stored(layer, task_id).id == task_id
    assert ids(layer.group(task_id)) == [task_id]
    assert layer.find(task_id) == stored(layer, task_id)


def test_get_many_keeps_the_order(layer: Layer) -> None:
    for task_id in "abc":
        layer.save(success(task_id, task_id))
    found = layer.get_many(["c", "none", "a", "c"])
    assert found == [stored(layer, "c"), NO_RECORD, stored(layer, "a"), stored(layer, "c")]
    assert layer.get_many([]) == []


def test_a_record_is_found_by_name_the_last_one_written(layer: Layer) -> None:
    layer.save(success("a", 1, name="winter"))
    layer.save(success("b", 2, name="winter"))
    assert layer.find("winter") == stored(layer, "b")
    assert layer.find("a") == stored(layer, "a")
    assert layer.find("summer") is NO_RECORD


def test_a_record_ends(layer: Layer) -> None:
    layer.save(success("a", 1, name="n", group="g"), 0.05)
    deadline = time.monotonic() + 10
    while layer.get("a") is not NO_RECORD or layer.group("g"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert layer.find("n") is NO_RECORD


def test_forget_takes_a_member_out_of_its_group(layer: Layer) -> None:
    layer.save(success("a", 1, group="g", sequence=1))
    layer.save(failure("b", group="g", sequence=2))
    assert layer.forget("a")
    assert not layer.forget("a")
    assert layer.get("a") is NO_RECORD
    assert layer.count("g") == (0, 1)
    assert ids(layer.group("g")) == ["b"]
    assert layer.save(success("a", 2, group="g"))
    assert layer.count("g") == (1, 1)


# Rank.


@pytest.mark.parametrize(
    ("first", "second", "accepted"),
    [
        (("SUCCESS", 0), ("STARTED", 0), False),
        (("SUCCESS", 0), ("STARTED", 5), False),
        (("SUCCESS", 0), ("FAILURE", 5), False),
        (("SUCCESS", 3), ("SUCCESS", 0), True),
        (("RETRY", 0), ("STARTED", 1), True),
        (("RETRY", 0), ("STARTED", 0), False),
        (("FAILURE", 0), ("RETRY", 0), False),
        (("FAILURE", 0), ("REVOKED", 0), True),
        (("REVOKED", 0), ("PENDING", 1), True),
        (("STARTED", 0), ("PROGRESS", 0), True),
        (("PROGRESS", 0), ("STARTED", 0), True),
        (("PROGRESS", 0), ("PENDING", 0), False),
        (("FAILURE", 1), ("FAILURE", 0), False),
    ],
)
@pytest.mark.parametrize("group", ["", "g"])
def test_a_write_of_lower_rank_is_refused(
    layer: Layer, first: tuple[str, int], second: tuple[str, int], accepted: bool, group: str
) -> None:
    assert layer.save(Record("a", state=first[0], retries=first[1], group=group, worker="1"))
    assert (
        layer.save(Record("a", state=second[0], retries=second[1], group=group, worker="2"))
        is accepted
    )
    state, retries = second if accepted else first
    found = stored(layer, "a")
    assert (found.state, found.retries, found.worker) == (state, retries, "2" if accepted else "1")
    ended = (int(state == "SUCCESS"), int(state in {"FAILURE", "REVOKED"})) if group else (0, 0)
    assert layer.count("g") == ended


def test_what_only_the_old_record_knows_is_kept(layer: Layer) -> None:
    layer.save(Record("a", "n", created=NOW, queued=NOW + 1, group="g", sequence=4, args="(1,)"))
    layer.save(Record("a", state="STARTED", started=NOW + 2, worker="w"))
    layer.save(success("a", 1, retries=0))
    found = stored(layer, "a")
    assert (found.name, found.created, found.queued, found.started) == ("n", NOW, NOW + 1, NOW + 2)
    assert (found.worker, found.group, found.sequence, found.args) == ("w", "g", 4, "(1,)")
    assert layer.count("g") == (1, 0)
    assert ids(layer.group("g")) == ["a"]


def test_many_states_of_one_task(layer: Layer) -> None:
    for step in range(60):
        assert layer.save(Record("a", state="PROGRESS", meta=str(step), group="g"))
        assert stored(layer, "a").meta == str(step)
    assert layer.save(success("a", 1))
    assert not layer.save(Record("a", state="PROGRESS", meta="late"))
    assert stored(layer, "a").state == "SUCCESS"
    assert layer.forget("a")
    assert layer.get("a") is NO_RECORD


def test_of_racing_writes_the_highest_stays(layer: Layer) -> None:
    for turn in range(5):
        task_id = f"t{turn}"
        records = [
            Record(task_id, state=state, retries=retries, group="g", worker=f"{state}{retries}")
            for state, retries in itertools.product(["STARTED", "RETRY", "FAILURE"], [0, 1])
        ]
        records += [Record(task_id, state="SUCCESS", retries=1, group="g", worker="last")]
        random.Random(turn).shuffle(records)
        together([partial(layer.save, record) for record in records])
        assert stored(layer, task_id).state == "SUCCESS"
        assert layer.count("g") == (turn + 1, 0)
        assert len(layer.group("g")) == turn + 1


# Groups.


def test_an_unknown_group_is_empty(layer: Layer) -> None:
    assert layer.group("g") == []
    assert layer.count("g") == (0, 0)
    assert layer.delete_group("g") == 0
    assert layer.delete_group("g", tasks=True) == 0
    layer.reserve("g")
    assert layer.group("g") == []
    assert layer.delete_group("g") == 0


def test_members_come_in_call_order(layer: Layer) -> None:
    first = layer.reserve("g", 3)
    last = layer.reserve("g")
    assert last >= first + 3
    for at in (last, first + 1, first + 2, first):
        assert layer.save(success(f"t{at}", at, group="g", sequence=at))
    layer.save(success("late", 0, group="g").replace(finished=NOW + 9))
    layer.save(success("early", 0, group="g").replace(finished=NOW + 1))
    expected = [f"t{at}" for at in (first, first + 1, first + 2, last)]
    assert ids(layer.group("g")) == [*expected, "early", "late"]


def test_sequences_are_unique_under_races(layer: Layer) -> None:
    given: list[int] = []
    together([lambda: given.extend(layer.reserve("g") for _ in range(20))] * 4)
    assert len(set(given)) == 80


def test_a_redelivered_task_is_one_member(layer: Layer) -> None:
    for _ in range(3):
        assert layer.save(success("a", 1, group="g", sequence=1))
    together([lambda: layer.save(success("a", 1, group="g", sequence=1))] * 4)
    assert layer.count("g") == (1, 0)
    assert ids(layer.group("g")) == ["a"]
    assert layer.delete_group("g") == 1


def test_counts_follow_the_states(layer: Layer) -> None:
    layer.save(Record("a", state="STARTED", group="g"))
    layer.save(success("b", 1, group="g"))
    assert layer.count("g") == (1, 0)
    layer.save(failure("a", group="g"))
    assert layer.count("g") == (1, 1)
    layer.save(Record("a", state="STARTED", retries=1, group="g"))
    assert layer.count("g") == (1, 0)
    layer.save(success("a", 1, retries=1, group="g"))
    assert layer.count("g") == (2, 0)
    assert layer.count("g").ended == 2


def test_a_task_that_changes_its_group_leaves_the_other(layer: Layer) -> None:
    layer.save(failure("a", group="g"))
    layer.save(success("a", 1, group="h"))
    assert layer.count("g") == (0, 0)
    assert layer.group("g") == []
    assert layer.count("h") == (1, 0)
    assert ids(layer.group("h")) == ["a"]


def test_writers_do_not_truncate_a_group(layer: Layer) -> None:
    each, writers = 60, 4

    def write(number: int) -> None:
        for i in range(each):
            save = success if i % 3 else failure
            assert layer.save(save(f"{number}-{i}", group="g", sequence=number * each + i))

    together([partial(write, number) for number in range(writers)])
    assert layer.count("g") == (160, 80)
    members = layer.group("g")
    assert [record.sequence for record in members] == list(range(each * writers))
    assert layer.delete_group("g", tasks=True) == each * writers
    assert layer.get_many([record.id for record in members]) == [NO_RECORD] * len(members)
    assert layer.count("g") == (0, 0)


def test_a_short_lived_member_does_not_end_the_group(layer: Layer) -> None:
    layer.save(success("a", 1, group="g"), 60)
    layer.save(success("b", 2, group="g"), 0.05)
    deadline = time.monotonic() + 0.3
    while time.monotonic() < deadline:
        assert "a" in ids(layer.group("g"))
        assert layer.count("g").successes >= 1


def test_to_delete_a_group_is_to_drop_its_label(layer: Layer) -> None:
    layer.save(success("a", 1, group="g", sequence=1))
    layer.save(failure("b", group="g", sequence=2))
    layer.save(Record("c", state="STARTED", group="g", sequence=3))
    assert layer.delete_group("g") == 3
    assert layer.group("g") == []
    assert layer.count("g") == (0, 0)
    assert layer.delete_group("g") == 0
    for task_id in "abc":
        found = stored(layer, task_id)
        assert (found.group, found.sequence) == ("", None)
    assert decode_value(stored(layer, "a")) == 1
    assert layer.save(success("d", 4, group="g"))
    assert ids(layer.group("g")) == ["d"]
    assert layer.count("g") == (1, 0)
    # A member of the former group goes on without a label.
    assert layer.save(success("c", 3))
    assert stored(layer, "c").group == ""
    assert layer.count("g") == (1, 0)


def test_a_group_is_deleted_with_its_tasks(layer: Layer) -> None:
    layer.save(success("a", 1, group="g"))
    layer.save(Record("b", state="STARTED", group="g"))
    layer.save(success("c", 1))
    assert layer.delete_group("g", tasks=True) == 2
    assert layer.get_many(["a", "b"]) == [NO_RECORD, NO_RECORD]
    assert layer.group("g") == []
    assert stored(layer, "c").successful
    assert layer.save(Record("a", state="STARTED", group="g"))
    assert ids(layer.group("g")) == ["a"]
    assert layer.count("g") == (0, 0)


def test_what_waiters_ask_is_answered_at_once(layer: Layer) -> None:
    layer.save(success("a", 1, group="g"))
    layer.save(Record("b", state="STARTED", group="g"))
    changed = layer.changed(["a", "b", "none"], ["g", "h"])
    assert set(changed.records) == {"a"}
    assert changed.counts == {"g": (1, 0), "h": (0, 0)}


# Values and errors.


def test_an_error_comes_back(layer: Layer) -> None:
    layer.save(failure("a"))
    error = decode_error(stored(layer, "a"))
    assert type(error) is ValueError
    assert error.args == ("no",)


def test_a_record_of_another_secret_is_none(layer: Layer, settings: Any) -> None:
    heard: list[str] = []

    def listen(key: str, **_: Any) -> None:
        heard.append(key)

    layer.save(success("a", 1, group="g"))
    before = settings.SECRET_KEY
    settings.SECRET_KEY = "another"
    entry_rejected.connect(listen)
    try:
        assert layer.get("a") is NO_RECORD
        assert layer.group("g") == []
    finally:
        entry_rejected.disconnect(listen)
    assert heard[0] == "a"
    settings.SECRET_KEY_FALLBACKS = [before]
    assert decode_value(stored(layer, "a")) == 1
    assert ids(layer.group("g")) == ["a"]
