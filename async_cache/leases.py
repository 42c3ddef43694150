"""Leases as values: who may refresh a key, and what is remembered of those who tried.

A lease is *queued* while its message waits for a worker and *fetching* while somebody fetches. The
functions here are pure; the stores apply them.

A store without scripts keeps a *trace* beside each lease, since its lease vanishes without a word:
who claimed last, how many dispatches got no answer, and whose fetch was never declared finished.
That one may still be running, and write late.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

__all__ = [
    "Lease",
    "Phase",
    "Trace",
    "decode_lease",
    "decode_trace",
    "encode_lease",
    "encode_trace",
    "may_take",
    "next_trace",
    "queued_seconds",
    "stray_fetch",
]

MAX_DOUBLINGS = 5


class Phase(IntEnum):
    """What the holder of a lease does: wait for a worker, or fetch."""

    QUEUED = 1
    FETCHING = 2


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to refresh one key.

    Attributes:
        phase: Waiting for a worker, or fetching.
        token: Random bytes that name the owner.
        attempts: Dispatches before this one that got no answer.
    """

    phase: Phase
    token: bytes
    attempts: int


@dataclass(frozen=True, slots=True)
class Trace:
    """What is remembered of the last claim of a lease, after the lease itself is gone.

    Attributes:
        phase: Phase of the last claim.
        token: Token of the last claim.
        attempts: Dispatches before it that got no answer.
        fetching: Token of the last fetch not known to have ended, or empty.
    """

    phase: Phase
    token: bytes
    attempts: int
    fetching: bytes


def may_take(held: Lease | None, phase: Phase, token: bytes) -> bool:
    """Tell whether a claim wins over what holds the lease now."""
    if held is None or held.token == token:
        return True
    return held.phase is Phase.QUEUED and phase is Phase.FETCHING


def queued_seconds(seconds: float, attempts: int) -> float:
    """Return the length of a queued lease: doubled for each dispatch that got no answer."""
    return float(seconds * 2 ** min(attempts, MAX_DOUBLINGS))


def next_trace(last: Trace | None, done: bytes | None, phase: Phase, token: bytes) -> Trace:
    """Return the trace that a winning claim leaves.

    Args:
        last: The trace found, if any.
        done: The token whose holder last declared that it will write nothing more.
        phase: Phase of the claim.
        token: Token of the claim.
    """
    attempts = 0
    if last is not None and last.token != done:
        unanswered = last.phase is Phase.QUEUED and phase is Phase.QUEUED and last.token != token
        attempts = last.attempts + unanswered
    if phase is Phase.FETCHING:
        return Trace(phase, token, attempts, token)
    return Trace(phase, token, attempts, stray_fetch(last, done, token))


def stray_fetch(last: Trace | None, done: bytes | None, token: bytes) -> bytes:
    """Return the token of another's fetch that never said it ended, or empty bytes."""
    if last is None or last.fetching in (done, token):
        return b""
    return last.fetching


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
    head = b"%d:%d:%d:" % (trace.phase, trace.attempts, len(trace.token))
    return head + trace.token + trace.fetching


def decode_trace(raw: object) -> Trace | None:
    """Return the stored trace, or None for nothing and for bytes that are no trace."""
    if not isinstance(raw, bytes):
        return None
    phase, attempts, length, rest = (*raw.split(b":", 3), b"", b"", b"", b"")[:4]
    if phase not in (b"1", b"2") or not attempts.isdigit() or not length.isdigit():
        return None
    size = int(length)
    return Trace(Phase(int(phase)), rest[:size], int(attempts), rest[size:])
