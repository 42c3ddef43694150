# ruff: noqa: D102  (the contract, in base.py, documents the operations)
"""Election and commit over what any cache has: get, set, add, touch, delete.

Knows no backend, and no clock of another machine: leases and traces end with their keys' timeouts.

Two keys make a lease, so that each phase is elected by one atomic ``add``: ``lease`` for fetching,
``lease.q`` for queued. A fetching claim ignores the queued key; a queued one needs both free.

A process may stop between checking its lease and writing, and write when it wakes up. Three rules
keep readers from taking what it wrote:

- a fetching claim leaves its trace *before* it confirms that the lease is its own, so whoever wins
  next finds it;
- who wins a fetching lease and finds a fetch that never said it ended renews the soft stamp, and
  only then reads the stamps that its own entry will carry;
- "I will write nothing more" is said under a key of its own (``trace.d``), and only by one whose
  claim was confirmed. Were the trace deleted instead, a latecomer could delete another's.

Each of them has been seen to fail when another was dropped; see ``tests/stores/test_schedules.py``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import ClassVar, TypeGuard

from async_cache.entry import STAMP_SIZE, new_stamp
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
from async_cache.stores.base import Claim, Claimed, Commit, Level, Outcome
from async_cache.stores.members import Members
from async_cache.stores.primitives import PrimitiveStore, queue_of
from async_cache.stores.touches import Touches

__all__ = ["ValidatedStore"]

DONE_LIFE = 86_400.0


def _done(trace: str) -> str:
    return trace + ".d"


def _memory(trace: str) -> tuple[str, str, str]:
    return trace, _done(trace), queue_of(trace)


def _leftovers(lease: str, trace: str) -> list[str]:
    return [lease, queue_of(lease), queue_of(trace)]


def _slot(claim: Claim) -> str:
    return claim.lease if claim.phase is Phase.FETCHING else queue_of(claim.lease)


def _is_stamp(raw: object) -> TypeGuard[bytes]:
    return isinstance(raw, bytes) and len(raw) == STAMP_SIZE


class ValidatedStore(PrimitiveStore):
    """Election and commit for a store made of five primitives.

    Args:
        stamp_life: Seconds that a stamp lives; no entry lives longer.
    """

    level: ClassVar[Level] = Level.VALIDATED

    def __init__(self, stamp_life: float = 30 * 86_400.0) -> None:
        self.stamp_life = stamp_life
        self._members = Members()
        self._touches = Touches()

    # Election.

    def claim(self, claims: Sequence[Claim]) -> list[Claimed]:
        answers: dict[int, Claimed] = {}
        tries: dict[int, Claim] = {}
        now = time.monotonic()
        before = self.look(
            (*c.stamps, c.lease, queue_of(c.lease), c.trace, queue_of(c.trace), *c.reads)
            for c in claims
            if c.phase is Phase.QUEUED
        )
        for i, c in enumerate(claims):
            full = c.max_members > 0 and not self._members.has_room(
                c.members or c.lease, c.member, c.max_members, now
            )
            if full:
                answers[i] = self._lost(
                    c, self.look([(c.lease, queue_of(c.lease), *c.reads)]), full
                )
            elif c.phase is Phase.QUEUED and not may_take(
                self.holder_in(before, c.lease), c.phase, c.token
            ):
                answers[i] = self._lost(c, before)
            else:
                tries[i] = c
        self._elect(tries, before, answers)
        return [answers[i] for i in range(len(claims))]

    def _elect(
        self, tries: dict[int, Claim], before: dict[str, object], answers: dict[int, Claimed]
    ) -> None:
        added = {i: self._add(c, before) for i, c in tries.items()}
        # Read after the election: an entry committed before it must be seen, and so must the
        # trace of whoever held the lease until now.
        seen = before | self._look_around(
            c for i, c in tries.items() if c.phase is Phase.FETCHING or not added[i]
        )
        retaken: list[Claim] = []
        for i, c in list(tries.items()):
            held = decode_lease(seen.get(_slot(c)))
            if added[i] or (held is not None and held.token == c.token):
                continue
            if held is None and self._retake(c, seen):
                retaken.append(c)
            else:
                answers[i] = self._lost(c, seen)
                del tries[i]
        seen |= self._look_around(retaken)
        attempts = self._leave_traces(tries, seen)
        after = self.look(
            (*c.stamps, *(c.reads if c.phase is Phase.QUEUED else ()), queue_of(c.lease), c.lease)
            for c in tries.values()
        )
        seen |= after
        for i, c in tries.items():
            held = self.holder_in(seen, c.lease)
            if held is None or held.token != c.token or held.phase < c.phase:
                answers[i] = self._lost(c, seen)
                continue
            stamps = tuple(self._stamp(after.get(name)) for name in c.stamps)
            values = tuple(self.as_bytes(seen.get(name)) for name in c.reads)
            answers[i] = Claimed(True, held, attempts[i], stamps, values)
            if c.phase is Phase.QUEUED and c.max_members > 0:
                # It takes a place while it waits: no more messages wait than there may be keys.
                now = time.monotonic()
                until = now + queued_seconds(c.seconds, attempts[i])
                self._members.reserve(c.members or c.lease, c.member, c.max_members, now, until)
        # A queued lease ends when a worker takes over: were that worker killed, what is left of
        # the grace would keep the next one away.
        self.remove(
            [
                queue_of(c.lease)
                for i, c in tries.items()
                if c.phase is Phase.FETCHING and answers[i].won and seen.get(queue_of(c.lease))
            ]
        )
        vain = [c for i, c in tries.items() if not answers[i].won]
        if vain:
            self.release([(c.lease, c.token, c.trace) for c in vain])

    def _add(self, claim: Claim, before: dict[str, object]) -> bool:
        attempts, seconds = self._attempts(claim, before), claim.seconds
        if claim.phase is Phase.QUEUED:
            seconds = queued_seconds(seconds, attempts)
        record = encode_lease(Lease(claim.phase, claim.token, attempts))
        return self.add(_slot(claim), record, seconds)

    @staticmethod
    def _attempts(claim: Claim, seen: dict[str, object]) -> int:
        last = decode_lease(seen.get(queue_of(claim.trace)))
        if claim.phase is Phase.FETCHING:
            return last.attempts if last is not None else 0
        return count_attempts(last, decode_trace(seen.get(claim.trace)), claim.token)

    def _retake(self, claim: Claim, seen: dict[str, object]) -> bool:
        """Win a lease after all: it has just gone free, or what is there is no lease."""
        if seen.get(_slot(claim)) is not None:
            self.delete_many([_slot(claim)])
        return self._add(claim, seen)

    def _look_around(self, claims: Iterable[Claim]) -> dict[str, object]:
        return self.look(
            (*c.stamps, *c.reads, *_memory(c.trace), c.lease, queue_of(c.lease)) for c in claims
        )

    def _leave_traces(self, tries: dict[int, Claim], seen: dict[str, object]) -> dict[int, int]:
        """Renew soft stamps where due, make missing stamps, and write the traces.

        Returns:
            Unanswered dispatches before each claim.
        """
        attempts: dict[int, int] = {}
        traces: dict[float, dict[str, bytes]] = {}
        made: set[str] = set()
        for i, c in tries.items():
            attempts[i] = self._attempts(c, seen)
            if c.phase is Phase.QUEUED:
                record = encode_lease(Lease(c.phase, c.token, attempts[i]))
                traces.setdefault(c.life, {})[queue_of(c.trace)] = record
            else:
                last = decode_trace(seen.get(c.trace))
                if c.soft_stamp and may_still_write(last, seen.get(_done(c.trace))):
                    self.set(c.soft_stamp, new_stamp(), c.stamp_life)
                    made.add(c.soft_stamp)
                waiting = decode_lease(seen.get(queue_of(c.trace)))
                trace = Trace(c.token, waiting.token if waiting is not None else b"")
                traces.setdefault(c.life, {})[c.trace] = encode_trace(trace)
            for name in c.stamps:
                if name not in made:
                    made.add(name)
                    self._ensure_stamp(name, seen.get(name), c.stamp_life)
        for life, values in traces.items():
            self.set_many(values, life)
        return attempts

    def _ensure_stamp(self, name: str, raw: object, life: float) -> None:
        if not _is_stamp(raw):
            if raw is not None:
                self.delete_many([name])
            if self.add(name, new_stamp(), life) and life >= self.stamp_life:
                self._touches.note(name, time.monotonic())

    @staticmethod
    def _stamp(raw: object) -> bytes:
        # A stamp lost again at once: one that matches nothing makes the entry a miss, no worse.
        return raw if _is_stamp(raw) else new_stamp()

    def _lost(self, claim: Claim, seen: dict[str, object], full: bool = False) -> Claimed:
        values = tuple(self.as_bytes(seen.get(name)) for name in claim.reads)
        held = self.holder_in(seen, claim.lease)
        return Claimed(False, held, held.attempts if held else 0, (), values, full)

    # What follows a fetch.

    def commit(self, commits: Sequence[Commit]) -> list[Outcome]:
        # The lease last: what is compared before it was still true while we held it.
        seen = self.look(
            (*(name for name, _ in c.expect), *(() if c.lease is None else (c.lease,)))
            for c in commits
        )
        outcomes = [self._verdict(c, seen) for c in commits]
        granted = [c for c, o in zip(commits, outcomes, strict=True) if o is Outcome.COMMITTED]
        self._extend(granted)
        self._write([c.puts[:-1] for c in granted])
        self._write([c.puts[-1:] for c in granted])
        self._give_back(
            [c for c in commits if c.lease is not None],
            [c for c, o in zip(commits, outcomes, strict=True) if o is not Outcome.LOST],
            [name for c in granted for name in c.removes],
        )
        return outcomes

    def _verdict(self, commit: Commit, seen: dict[str, object]) -> Outcome:
        if commit.lease is not None:
            held = decode_lease(seen.get(commit.lease))
            if held is None or held.token != commit.token:
                return Outcome.LOST
        if any(seen.get(name) != value for name, value in commit.expect):
            return Outcome.OVERTAKEN
        if commit.members is not None and commit.max_members > 0:
            now = time.monotonic()
            life = commit.puts[-1][2] if commit.puts else 0.0
            if not self._members.join(
                commit.members, commit.member, commit.max_members, now, now + life
            ):
                return Outcome.FULL
        return Outcome.COMMITTED

    def _extend(self, commits: Iterable[Commit]) -> None:
        """Make stamps outlive the entries; always to a full life, which cannot shorten one."""
        for name, seconds in {pair for c in commits for pair in c.extend}:
            if self._touches.due(name, seconds, self.stamp_life, time.monotonic()):
                self.touch(name, max(seconds, self.stamp_life))

    def _write(self, groups: Iterable[tuple[tuple[str, bytes, float], ...]]) -> None:
        """Write each group in its order; groups of one item are written together."""
        together: dict[float, dict[str, bytes]] = {}
        for items in groups:
            if len(items) > 1:
                self.put(items)
            for name, value, seconds in items if len(items) == 1 else ():
                together.setdefault(seconds, {})[name] = value
        for seconds, values in together.items():
            self.set_many(values, seconds)

    def _give_back(
        self, ended: Sequence[Commit], ours: Sequence[Commit], removes: Sequence[str]
    ) -> None:
        # First the word that we are done: whoever wins the lease must not take us for a straggler.
        if ended:
            self.set_many({_done(c.trace): c.token for c in ended}, DONE_LIFE)
        gone = [n for c in ours if c.lease is not None for n in _leftovers(c.lease, c.trace)]
        self.remove([*removes, *gone])

    def renew(self, leases: Sequence[tuple[str, bytes, float]]) -> list[bool]:
        seen = self.look([[name for name, _, _ in leases]])
        held = [decode_lease(seen.get(name)) for name, _, _ in leases]
        return [
            lease is not None and lease.token == token and self.touch(name, seconds)
            for lease, (name, token, seconds) in zip(held, leases, strict=True)
        ]

    def remove(self, names: Sequence[str]) -> None:
        for name in names:
            self._members.forget(name)  # a set of keys is kept here, not in the cache
        super().remove(names)

    def release(self, leases: Sequence[tuple[str, bytes, str]]) -> None:
        seen = self.look((name, queue_of(name)) for name, _, _ in leases)
        ended: dict[str, bytes] = {}
        gone: list[str] = []
        for name, token, trace in leases:
            held = [decode_lease(seen.get(slot)) for slot in (name, queue_of(name))]
            fetching, queued = [lease is not None and lease.token == token for lease in held]
            if fetching:
                ended[_done(trace)] = token
                gone += _leftovers(name, trace)
            elif queued:
                gone += [queue_of(name), queue_of(trace)]
        if ended:
            self.set_many(ended, DONE_LIFE)
        self.remove(gone)
