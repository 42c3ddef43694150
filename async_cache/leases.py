"""Leases as values: who may refresh a key, and what is remembered of those who tried.

A lease is *queued* while its message waits for a worker and *fetching* while somebody fetches. The
functions here are pure; the stores apply them.

A store without scripts remembers two things beside each lease, since a lease vanishes without a
word. The last queued record tells how many dispatches got no answer. The *trace* of the last fetch
tells whose it was: until that one has said that it will write nothing more, it may still be
running, and write late.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple
from uuid import UUID

__all__ = [
    "Lease",
    "Phase",
    "Trace",
    "count_attempts",
    "decode_lease",
    "decode_trace",
    "encode_lease",
    "encode_trace",
    "may_still_write",
    "may_take",
    "queued_seconds",
    "task_id",
]

MAX_DOUBLINGS = 5


class Phase(IntEnum):
    """What the holder of a lease does: wait for a worker, or fetch."""

    QUEUED = 1
    FETCHING = 2


class Lease(NamedTuple):
    """The right to refresh one key.

    Attributes:
        phase: Waiting for a worker, or fetching.
        token: Random bytes that name the owner.
        attempts: Dispatches before this one that got no answer.
    """

    phase: Phase
    token: bytes
    attempts: int


class Trace(NamedTuple):
    """What is remembered of the last fetch that was begun, after its lease is gone.

    Attributes:
        token: Its token.
        answers: Token of the dispatch that waited when it began, or empty.
    """

    token: bytes
    answers: bytes


def task_id(token: bytes) -> str:
    """Return the id of the task that a token names; some id also for a token that is not ours."""
    return str(UUID(bytes=token[:16].ljust(16, b"\0")))


def may_take(held: Lease | None, phase: Phase, token: bytes) -> bool:
    """Tell whether a claim wins over what holds the lease now."""
    if held is None or held.token == token:
        return True
    return held.phase is Phase.QUEUED and phase is Phase.FETCHING


def queued_seconds(seconds: float, attempts: int) -> float:
    """Return the length of a queued lease: doubled for each dispatch that got no answer."""
    return float(seconds * 2 ** min(attempts, MAX_DOUBLINGS))


def count_attempts(last: Lease | None, trace: Trace | None, token: bytes) -> int:
    """Count the dispatches that got no answer before the one that now claims.

    Args:
        last: Record of the last dispatch since a refresh was finished, if any.
        trace: Trace of the last fetch, if any.
        token: Token of the new dispatch.
    """
    if last is None:
        return 0
    answered = last.token == token or (trace is not None and trace.answers == last.token)
    return last.attempts + (not answered)


def may_still_write(trace: Trace | None, done: object) -> bool:
    """Tell whether the last fetch never said that it would write nothing more.

    Args:
        trace: Trace of that fetch, if any.
        done: Token of the fetch that said so last.
    """
    return trace is not None and trace.token != done


def encode_lease(lease: Lease) -> bytes:
    """Return the stored form of a lease."""
    return b"%d:%d:%b" % (lease.phase, lease.attempts, lease.token)


def decode_lease(raw: object) -> Lease | None:
    """Return the stored lease, or None for nothing and for bytes that are no lease."""
    if not isinstance(raw, bytes):
        return None
    phase, _, rest = raw.partition(b":")
    attempts, _, token = rest.partition(b":")
    if phase not in (b"1", b"2") or not attempts.isdigit() or not token:
        return None
    return Lease(Phase(int(phase)), token, int(attempts))


def encode_trace(trace: Trace) -> bytes:
    """Return the stored form of a trace."""
    return b"%d:%b%b" % (len(trace.token), trace.token, trace.answers)


def decode_trace(raw: object) -> Trace | None:
    """Return the stored trace, or None for nothing and for bytes that are no trace."""
    if not isinstance(raw, bytes):
        return None
    length, _, rest = raw.partition(b":")
    if not length.isdigit() or not 0 < int(length) <= len(rest):
        return None
    return Trace(rest[: int(length)], rest[int(length) :])
