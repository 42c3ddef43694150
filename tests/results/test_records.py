"""Records: rank, merging, order, sealed bytes. No server, no settings."""

from __future__ import annotations

import itertools
import os
import pickle
import random
import sys
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_cache.keyring import KeyRing
from async_cache.results.exceptions import RecordRejected
from async_cache.results.records import (
    NO_RECORD,
    STATES,
    SUCCESS_RANK,
    Outcome,
    Record,
    in_call_order,
    merge,
    outcome_of,
    rank,
)
from async_cache.results.sealed import dump_record, load_record, rank_in

OPENER = KeyRing(["secret"]).opener("results")
TEXTS = st.text(max_size=20)
TIMES = st.none() | st.floats(allow_nan=False)
RECORDS = st.builds(
    Record,
    id=TEXTS | st.uuids().map(str) | st.uuids().map(lambda u: str(u).upper()),
    name=TEXTS,
    state=st.sampled_from(STATES) | TEXTS,
    retries=st.integers(0, 2**40),
    created=TIMES,
    queued=TIMES,
    started=TIMES,
    finished=TIMES,
    worker=TEXTS,
    group=TEXTS,
    sequence=st.none() | st.integers(0, 2**63),
    value=st.binary(max_size=200) | st.just(b"x" * 100_000),
    content_type=st.sampled_from(["", "application/json", "application/x-async-cache"]) | TEXTS,
    content_encoding=st.sampled_from(["", "utf-8", "pickle"]) | TEXTS,
    traceback=TEXTS,
    meta=TEXTS,
    args=TEXTS,
    kwargs=TEXTS,
)


def test_states_are_ranked_within_an_attempt() -> None:
    order = [
        {"PENDING"},
        {"RECEIVED", "STARTED", "PROGRESS"},
        {"RETRY"},
        {"FAILURE", "REVOKED"},
        {"SUCCESS"},
    ]
    for lower, higher in itertools.combinations(order, 2):
        for a, b in itertools.product(lower, higher):
            assert rank(1, a) < rank(1, b)
    for states in order:
        assert len({rank(1, state) for state in states}) == 1


@pytest.mark.parametrize("state", [*STATES, "PROGRESS"])
def test_a_later_attempt_beats_anything_but_success(state: str) -> None:
    assert rank(1, state) > rank(0, "REVOKED")
    assert rank(9, state) <= rank(0, "SUCCESS") == SUCCESS_RANK
    assert 0 <= rank(-1, state) <= rank(10**30, state) < 2**31


@pytest.mark.parametrize("retries", [0, 1, 7, 10**9])
def test_a_rank_tells_how_the_task_ended(retries: int) -> None:
    for state in (*STATES, "PROGRESS"):
        ended = {"SUCCESS": Outcome.SUCCEEDED, "FAILURE": Outcome.FAILED, "REVOKED": Outcome.FAILED}
        assert outcome_of(rank(retries, state)) is ended.get(state, Outcome.NONE)
        assert Record("a", state=state).ready == (state in ended)
        assert Record("a", state=state).successful == (state == "SUCCESS")


def test_no_record_is_one_falsy_object_and_not_none() -> None:
    assert not NO_RECORD
    assert NO_RECORD is not None
    assert pickle.loads(pickle.dumps(NO_RECORD)) is NO_RECORD
    assert repr(NO_RECORD) == "NO_RECORD"


def test_merge_keeps_what_the_new_lacks() -> None:
    old = Record("a", "n", created=1.0, queued=2.0, started=3.0, worker="v", group="g", sequence=0)
    new = Record("a", state="SUCCESS", started=5.0, finished=6.0, worker="w", value=b"1")
    assert merge(old, new) == Record(
        "a", "n", "SUCCESS", created=1.0, queued=2.0, started=5.0, finished=6.0, worker="w",
        group="g", sequence=0, value=b"1",
    )  # fmt: skip
    assert merge(NO_RECORD, new) is new
    assert merge(old.replace(value=b"0", traceback="t", meta="m"), new).traceback == ""


def test_a_sequence_of_zero_is_a_place() -> None:
    assert merge(Record("a", sequence=3), Record("a", sequence=0)).sequence == 0


def test_call_order() -> None:
    records = [Record(str(i), sequence=i) for i in range(50)]
    records += [Record("y", finished=1.0), Record("z", finished=2.0), Record("x")]
    expected = [*records[:50], records[50], records[51], records[52]]
    random.Random(1).shuffle(records)
    assert in_call_order(records) == expected
    assert in_call_order([]) == []


@given(RECORDS)
def test_a_record_comes_back_type_for_type(record: Record) -> None:
    raw = dump_record(record, OPENER)
    back = load_record(raw, OPENER)
    assert back == record
    assert list(map(type, back)) == list(map(type, record))
    assert rank_in(raw) == record.rank


def test_a_usual_record_is_small() -> None:
    record = Record(
        str(uuid.uuid4()), "math.modf", "SUCCESS", 0, 1.5, 1.5, 1.5, 1.5, "celery@worker-1",
        "modf", 9_999, b"x" * 51, "application/x-async-cache", "pickle",
    )  # fmt: skip
    assert len(dump_record(record, OPENER)) <= 185


def test_every_changed_byte_is_noticed() -> None:
    raw = dump_record(Record("a", "n", "SUCCESS", value=b"value"), OPENER)
    for at in range(len(raw)):
        forged = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        with pytest.raises(RecordRejected):
            load_record(forged, OPENER)
    for size in range(len(raw)):
        with pytest.raises(RecordRejected):
            load_record(raw[:size], OPENER)


@pytest.mark.parametrize("raw", [None, "text", b"", b"x" * 10, os.urandom(300), 7])
def test_foreign_bytes_are_rejected(raw: object) -> None:
    with pytest.raises(RecordRejected):
        load_record(raw, OPENER)


def test_nothing_is_unpickled_before_the_seal_is_checked() -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return exec, ("import sys; sys._exploded = True",)

    body = b"\0\0\0\1\x01" + pickle.dumps(Bomb())
    with pytest.raises(RecordRejected):
        load_record(b"m" * 16 + body, OPENER)
    assert not hasattr(sys, "_exploded")


def test_another_secret_another_key_and_an_earlier_secret() -> None:
    record = Record("a", value=b"v")
    raw = dump_record(record, OPENER)
    for opener in (KeyRing(["other"]).opener("results"), KeyRing(["secret"]).opener("elsewhere")):
        with pytest.raises(RecordRejected, match="SECRET_KEY"):
            load_record(raw, opener)
    assert load_record(raw, KeyRing(["new", "secret"]).opener("results")) == record


def test_what_is_sealed_but_no_record_is_rejected() -> None:
    for body in (
        b"\x09abc",
        b"\x01" + pickle.dumps(7),
        b"\x01" + pickle.dumps((1,) * 40),
        b"\x01.",
    ):
        sealed = b"\0\0\0\1" + body
        state = OPENER.copy()
        state.update(sealed)
        with pytest.raises(RecordRejected):
            load_record(state.digest() + sealed, OPENER)


def test_members_of_one_number_have_one_order() -> None:
    records = [Record(name, group="g", sequence=1) for name in ("b", "a", "c")]
    for found in (records, records[::-1]):
        assert [record.id for record in in_call_order(found)] == ["a", "b", "c"]
