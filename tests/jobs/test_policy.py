"""`decide` and its arithmetic: pure, so every case is a line."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_cache.entry import BORN_STALE, NEGATIVE, Header, Status, new_entry_id, new_header
from async_cache.policy import (
    BACKOFF_CAP,
    CLOCK_TOLERANCE,
    Decision,
    Failure,
    age,
    decide,
    expiry,
    next_failure,
)

JOB, HARD, SOFT, TAG, OTHER = (bytes([number]) * 12 for number in range(1, 6))
STAMPS = [JOB, HARD, SOFT, TAG]


def header(flags: int = 0, started: float = 100.0, seconds: float = 1.0) -> Header:
    return new_header(
        entry_id=new_entry_id(),
        codec=1,
        fetch_started=started,
        fresh_until=started + 60,
        dead_at=started + 600,
        fetch_seconds=seconds,
        stamps=b"".join(STAMPS),
        flags=flags,
        tags=("t",),
    )


@pytest.mark.parametrize(
    ("now", "decision"),
    [
        (100, Decision.FRESH),
        (159.999, Decision.FRESH),
        (160, Decision.EXPIRED),
        (699.999, Decision.EXPIRED),
        (700, Decision.DEAD),
        (100 - CLOCK_TOLERANCE, Decision.FRESH),
        (100 - CLOCK_TOLERANCE - 0.001, Decision.AHEAD),
        (-1e9, Decision.AHEAD),
    ],
)
def test_p1_time_decides(now: float, decision: Decision) -> None:
    assert decide(header(), STAMPS, now) is decision


@pytest.mark.parametrize(
    ("stamps", "decision"),
    [
        ([OTHER, HARD, SOFT, TAG], Decision.DELETED),
        ([JOB, OTHER, SOFT, TAG], Decision.DELETED),
        ([JOB, HARD, OTHER, TAG], Decision.INVALIDATED),
        ([JOB, HARD, SOFT, OTHER], Decision.INVALIDATED),
        ([OTHER, HARD, OTHER, TAG], Decision.DELETED),
        ([None, HARD, SOFT, TAG], Decision.UNSTAMPED),
        ([JOB, HARD, SOFT, None], Decision.UNSTAMPED),
        ([JOB, HARD, SOFT], Decision.INVALIDATED),
        ([b"", HARD, SOFT, TAG], Decision.DELETED),
    ],
)
def test_p4_stamps_decide(stamps: list[bytes | None], decision: Decision) -> None:
    assert decide(header(), stamps, 110) is decision
    assert decide(header(), stamps, 700) is Decision.DEAD
    if decision is Decision.INVALIDATED:
        assert decide(header(NEGATIVE), stamps, 110) is Decision.OUTDATED


def test_p4_what_was_stored_stale_is_stale() -> None:
    assert decide(header(BORN_STALE), STAMPS, 110) is Decision.INVALIDATED
    assert decide(header(BORN_STALE | NEGATIVE), STAMPS, 110) is Decision.OUTDATED


def test_what_is_no_miss_is_servable() -> None:
    for decision in Decision:
        assert decision.servable is (decision.status is not Status.MISS)
        assert decision.refresh is (decision is not Decision.FRESH)
        assert decision.reason


def test_early_refresh() -> None:
    assert decide(header(), STAMPS, 155, early_window=10) is Decision.EARLY
    assert decide(header(), STAMPS, 149, early_window=10) is Decision.FRESH
    assert decide(header(seconds=2), STAMPS, 155, early=1, draw=math.exp(-3)) is Decision.EARLY
    assert decide(header(seconds=2), STAMPS, 155, early=1, draw=math.exp(-2)) is Decision.FRESH
    assert decide(header(), STAMPS, 159, early=1, draw=1.0) is Decision.FRESH
    assert decide(header(NEGATIVE), STAMPS, 159, early=99, draw=0.01) is Decision.FRESH


def test_age_is_never_negative() -> None:
    assert age(header(), 90) == 0
    assert age(header(), 130) == 30


@given(
    ttl=st.none() | st.floats(0, 1e6),
    grace=st.floats(0, 1e6),
    cut=st.floats(0, 1, exclude_max=True),
    most=st.floats(1, 1e6),
)
def test_p1_expiry_never_exceeds_ttl_and_grace(
    ttl: float | None, grace: float, cut: float, most: float
) -> None:
    fresh, dead = expiry(0.0, ttl, grace, cut, most)
    assert dead <= most
    if ttl is None:
        assert (fresh, dead) == (math.inf, most)
        return
    assert 0 <= fresh <= ttl
    assert fresh <= dead <= ttl + grace


@given(draw=st.floats(0, 1, exclude_max=True), count=st.integers(0, 200))
def test_p9_the_back_off_is_bounded(draw: float, count: int) -> None:
    previous = Failure(count, 0.0, "OSError") if count else None
    failure, life = next_failure(previous, "OSError", 1000.0, draw)
    step = min(BACKOFF_CAP, 2.0 ** min(count, 30))
    assert failure.count == count + 1
    assert step / 2 <= failure.until - 1000 <= step
    assert life > failure.until - 1000, "the next failure finds the count"
    assert Failure.decode(failure.encode()) == Failure(
        failure.count, round(failure.until, 3), "OSError"
    )


@given(raw=st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_p7_a_damaged_record_is_none(raw: bytes) -> None:
    found = Failure.decode(raw)
    assert found is None or found.count > 0


def test_p5_a_record_from_a_clock_far_ahead_locks_nobody_out() -> None:
    assert Failure(3, 1e12, "OSError").remaining(1000.0) == 0
    assert Failure(3, 1030.0, "OSError").remaining(1000.0) == 30
    assert Failure.decode(b"x" * 2000) is None
