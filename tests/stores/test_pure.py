"""The parts of the stores that do no I/O."""

from __future__ import annotations

import itertools
from typing import Any

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_cache.breaker import Breaker
from async_cache.leases import (
    Lease,
    Phase,
    Trace,
    count_attempts,
    decode_lease,
    decode_trace,
    encode_lease,
    encode_trace,
    may_still_write,
    may_take,
    queued_seconds,
)
from async_cache.stores.members import MAX_SETS, Members
from async_cache.stores.resp import INCOMPLETE, ErrorReply, ProtocolError, PythonReader, pack
from async_cache.stores.touches import Touches

phases = st.sampled_from(Phase)
tokens = st.binary(min_size=1, max_size=20)
counts = st.integers(0, 10**6)


@given(phases, tokens, counts)
def test_a_lease_survives_storage(phase: Phase, token: bytes, attempts: int) -> None:
    lease = Lease(phase, token, attempts)
    assert decode_lease(encode_lease(lease)) == lease


@given(tokens, st.binary(max_size=20))
def test_a_trace_survives_storage(token: bytes, answers: bytes) -> None:
    trace = Trace(token, answers)
    assert decode_trace(encode_trace(trace)) == trace


@given(st.one_of(st.none(), st.text(), st.integers(), st.binary()))
def test_what_is_no_record_is_nothing(raw: object) -> None:
    for decoded in (decode_lease(raw), decode_trace(raw)):
        assert decoded is None or isinstance(raw, bytes)


@pytest.mark.parametrize("raw", [b"", b"3:0:t", b"1:x:t", b"1:0:", b"2:-1:t", b"1:0", b"1:\xb2:t"])
def test_near_misses_are_no_leases(raw: bytes) -> None:
    assert decode_lease(raw) is None


def test_queued_leases_double_up_to_a_cap() -> None:
    assert [queued_seconds(10, n) for n in (0, 1, 2, 5, 6, 99)] == [10, 20, 40, 320, 320, 320]


def test_who_may_take() -> None:
    queued, fetching = Lease(Phase.QUEUED, b"a", 0), Lease(Phase.FETCHING, b"a", 0)
    assert may_take(None, Phase.QUEUED, b"b")
    assert may_take(queued, Phase.FETCHING, b"b")
    assert not may_take(queued, Phase.QUEUED, b"b")
    assert not may_take(fetching, Phase.QUEUED, b"b")
    assert not may_take(fetching, Phase.FETCHING, b"b")
    assert may_take(fetching, Phase.FETCHING, b"a")


def test_dispatches_count_until_one_is_answered() -> None:
    last = Lease(Phase.QUEUED, b"q", 2)
    assert count_attempts(None, None, b"n") == 0
    assert count_attempts(last, None, b"n") == 3
    assert count_attempts(last, Trace(b"f", b"other"), b"n") == 3
    assert count_attempts(last, Trace(b"f", b"q"), b"n") == 2
    assert count_attempts(last, None, b"q") == 2


def test_a_fetch_may_write_until_it_said_that_it_will_not() -> None:
    assert not may_still_write(None, None)
    assert may_still_write(Trace(b"f", b""), None)
    assert may_still_write(Trace(b"f", b""), b"g")
    assert not may_still_write(Trace(b"f", b""), b"f")


def test_a_breaker_lets_one_probe_through() -> None:
    breaker = Breaker(1.0)
    assert breaker.admits(100)
    breaker.failed(100)
    assert not breaker.admits(100.9)
    assert breaker.admits(101)
    assert not breaker.admits(101.5)
    assert breaker.admits(102)
    breaker.succeeded()
    assert breaker.admits(102)
    assert breaker.admits(102)


def test_touches_are_due_when_a_life_might_run_short() -> None:
    touches = Touches(cap=2)
    assert touches.due("a", 10, 100, 0)
    assert not touches.due("a", 10, 100, 89)
    assert touches.due("a", 10, 100, 90)
    assert not touches.due("a", 10, 100, 91)
    touches.note("b", 91)
    touches.note("c", 91)
    assert touches.due("a", 10, 100, 91)


def test_members_are_bounded() -> None:
    members = Members()
    assert members.join("s", "a", 1, now=0, until=10)
    assert members.has_room("s", "a", 1, 5)
    assert not members.has_room("s", "b", 1, 5)
    assert not members.join("s", "b", 1, now=5, until=10)
    assert members.join("s", "b", 1, now=10, until=20)
    for i in range(MAX_SETS):
        members.join(f"s{i}", "a", 1, now=0, until=10)
    assert members.has_room("s", "c", 1, 11)
    assert len(members._sets) == MAX_SETS


REPLIES = [
    (b"+OK\r\n", b"OK"),
    (b":12\r\n", 12),
    (b"$-1\r\n", None),
    (b"_\r\n", None),
    (b"*-1\r\n", None),
    (b"$0\r\n\r\n", b""),
    (b"$4\r\na\r\nb\r\n", b"a\r\nb"),
    (b"*0\r\n", []),
    (b"*3\r\n$1\r\nx\r\n$-1\r\n*2\r\n:1\r\n_\r\n", [b"x", None, [1, None]]),
]


def replies(reader: Any) -> list[Any]:
    found = []
    while (reply := reader.gets()) is not INCOMPLETE:
        found.append(reply)
    return found


@given(st.lists(st.sampled_from(REPLIES)), st.lists(st.integers(0, 200)))
def test_replies_may_come_in_any_pieces(sent: list[tuple[bytes, Any]], cuts: list[int]) -> None:
    data = b"".join(raw for raw, _ in sent)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    ours, theirs = PythonReader(), hiredis.Reader(notEnoughData=INCOMPLETE)
    found: list[Any] = []
    expected: list[Any] = []
    for start, stop in itertools.pairwise(edges):
        for reader, answers in ((ours, found), (theirs, expected)):
            reader.feed(data[start:stop])
            answers += replies(reader)
    assert found == expected == [value for _, value in sent]
    assert not ours.has_data()


def test_an_error_is_a_reply_with_a_code() -> None:
    reader = PythonReader()
    reader.feed(b"*1\r\n-NOSCRIPT No matching script.\r\n-ERR x")
    [[error]] = replies(reader)
    assert isinstance(error, ErrorReply)
    assert error.code == "NOSCRIPT"
    assert reader.has_data()


@pytest.mark.parametrize("raw", [b"HTTP/1.1 400\r\n", b"$x\r\n", b"\r\n", b"*1\r\n!\r\n"])
def test_what_is_no_reply_ends_the_connection(raw: bytes) -> None:
    reader = PythonReader()
    reader.feed(raw)
    with pytest.raises(ProtocolError):
        reader.gets()


@given(st.lists(st.binary(), min_size=1))
def test_commands_are_packed_as_the_server_reads_them(words: list[bytes]) -> None:
    reader = PythonReader()
    reader.feed(pack(*words))
    assert replies(reader) == [words]
