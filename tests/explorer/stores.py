"""A validated and a fenced store in the simulated memory, and how to break them on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from async_cache.entry import new_stamp
from async_cache.leases import Phase, may_take, queued_seconds
from async_cache.stores.base import Claim, Claimed, Commit, Handle, Lease, Level, Outcome, Store
from async_cache.stores.validated import ValidatedStore
from tests.explorer.world import World

LIFE = 30 * 86_400.0


@dataclass(frozen=True)
class Breaks:
    """What to leave out, so that a test can see the search find it.

    Attributes:
        fence: A commit does not compare the lease's token.
        stamps: Readers do not compare stamps.
        renewal: Who takes over from a straggler does not renew the soft stamp.
        election: Every claim wins.
    """

    fence: bool = False
    stamps: bool = False
    renewal: bool = False
    election: bool = False


SOUND = Breaks()


class SwitchingStore(ValidatedStore):
    """The real algorithm for any Django cache; each of its primitives is a command."""

    def __init__(self, world: World, breaks: Breaks = SOUND) -> None:
        super().__init__(LIFE)
        self.alias = "default"
        self.world = world
        self.breaks = breaks

    def get_many(self, names: Sequence[str]) -> dict[str, object]:
        world = self.world
        if not world.split:
            world.stop("get_many")
        found = {}
        for name in names:
            if world.split:
                world.stop("get")
            value = world.get(name)
            if value is not None:
                found[name] = value
        world.learn(tuple(found.items()))
        return found

    def set(self, name: str, value: bytes, seconds: float) -> None:
        self.world.stop("set")
        self.world.set(name, value, seconds)

    def add(self, name: str, value: bytes, seconds: float) -> bool:
        world = self.world
        world.stop("add")
        free = world.get(name) is None or self.breaks.election
        if free:
            world.set(name, value, seconds)
        world.learn(free)
        return free

    def touch(self, name: str, seconds: float) -> bool:
        # No command of its own: a new timeout of something that stays changes no answer.
        world = self.world
        value = world.get(name)
        if value is None:
            world.learn(False)
            return False
        world.data[name] = (value, world.now + seconds)
        return True

    def delete_many(self, names: Sequence[str]) -> None:
        self.world.stop("delete_many")
        for name in names:
            self.world.drop(name)

    def claim(self, claims: Sequence[Claim]) -> list[Claimed]:
        if self.breaks.renewal:
            claims = [replace(claim, soft_stamp="") for claim in claims]
        return super().claim(claims)

    def _verdict(self, commit: Commit, seen: dict[str, object]) -> Outcome:
        if self.breaks.fence:
            commit = replace(commit, lease=None)
        return super()._verdict(commit, seen)

    def holders(self, leases: Sequence[str]) -> list[Lease | None]:
        if self.breaks.election:
            return [None for _ in leases]
        return super().holders(leases)

    def close(self) -> None:
        """Do nothing."""

    def expire(self, lease: str) -> None:
        """Let a lease end now."""
        self.remove([lease, lease + ".q"])


class AtomicStore(Store):
    """A fenced store: each operation on one key is one command, as a script is."""

    level: ClassVar[Level] = Level.FENCED

    def __init__(self, world: World, breaks: Breaks = SOUND) -> None:
        self.alias = "default"
        self.world = world
        self.breaks = breaks

    def prepare(self, names: Sequence[str]) -> Handle:
        return tuple(names)

    def read(self, handle: Handle) -> list[bytes | None]:
        self.world.stop("read")
        found = [self.world.get(name) for name in handle]
        self.world.learn(tuple(found))
        return found

    def read_many(self, handles: Sequence[Handle]) -> list[list[bytes | None]]:
        return [self.read(handle) for handle in handles]

    def _held(self, lease: str) -> tuple[Lease, float] | None:
        record = self.world.get(lease)
        return record if isinstance(record, tuple) else None

    def _live(self, lease: str) -> Lease | None:
        held = self._held(lease)
        return held[0] if held is not None and held[1] > self.world.now else None

    def claim(self, claims: Sequence[Claim]) -> list[Claimed]:
        return [self._claim(claim) for claim in claims]

    def _claim(self, c: Claim) -> Claimed:
        world = self.world
        world.stop("claim")
        record, live = self._held(c.lease), self._live(c.lease)
        won = may_take(live, c.phase, c.token) or self.breaks.election
        full = won and c.max_members > 0 and not self._has_room(c.members, c.member, c.max_members)
        attempts = record[0].attempts if record is not None else 0
        holder = live
        stamps: list[bytes] = []
        if won and not full:
            phase, seconds = c.phase, c.seconds
            if record is not None:
                last = record[0]
                if last.token != c.token and last.phase is c.phase is Phase.QUEUED:
                    attempts += 1
                if last.token == c.token:
                    phase = max(last.phase, phase)
            if phase is Phase.QUEUED:
                seconds = queued_seconds(seconds, attempts)
            holder = Lease(phase, c.token, attempts)
            life = c.life
            if phase is Phase.QUEUED and c.members is not None and c.max_members > 0:
                life = 2 * seconds
                members = self._members(c.members)
                members[c.member] = max(members.get(c.member, 0.0), world.now + seconds)
                world.set(c.members, tuple(members.items()), LIFE)
            world.set(c.lease, (holder, world.now + seconds), max(seconds, life))
            for name in c.stamps:
                stamp = world.get(name)
                if stamp is None or len(stamp) != 12:
                    stamp = new_stamp()
                    world.set(name, stamp, c.stamp_life)
                stamps.append(stamp)
        elif full:
            holder = live
        values = tuple(world.get(name) for name in c.reads)
        answer = Claimed(won and not full, holder, attempts, tuple(stamps), values, full)
        world.learn(answer)
        return answer

    def _members(self, name: str | None) -> dict[str, float]:
        members: dict[str, float] = dict(self.world.get(name or "") or ())
        return {member: end for member, end in members.items() if end > self.world.now}

    def _has_room(self, name: str | None, member: str, cap: int) -> bool:
        members = self._members(name)
        return member in members or len(members) < cap

    def commit(self, commits: Sequence[Commit]) -> list[Outcome]:
        outcomes = []
        for c in commits:
            self.world.stop("commit")
            outcome = self._commit(c)
            self.world.learn(outcome)
            outcomes.append(outcome)
        return outcomes

    def _commit(self, c: Commit) -> Outcome:
        world = self.world
        if c.lease is not None:
            held = self._held(c.lease)
            if held is None or held[0].token != c.token:
                if not self.breaks.fence:
                    return Outcome.LOST
            else:
                world.drop(c.lease)
        if any(world.get(name) != value for name, value in c.expect):
            return Outcome.OVERTAKEN
        if c.members is not None and c.max_members > 0 and c.puts:
            if not self._has_room(c.members, c.member, c.max_members):
                return Outcome.FULL
            members = self._members(c.members) | {c.member: world.now + c.puts[-1][2]}
            world.set(c.members, tuple(members.items()), LIFE)
        for name, seconds in c.extend:
            value = world.get(name)
            if value is not None and world.left(name) < seconds:
                world.set(name, value, seconds)
        for name, value, seconds in c.puts:
            world.set(name, value, seconds)
        for name in c.removes:
            world.drop(name)
        return Outcome.COMMITTED

    def renew(self, leases: Sequence[tuple[str, bytes, float]]) -> list[bool]:
        return [self._renew(*lease) for lease in leases]

    def _renew(self, name: str, token: bytes, seconds: float) -> bool:
        world = self.world
        world.stop("renew")
        held = self._held(name)
        ours = held is not None and held[0].phase is Phase.FETCHING and held[0].token == token
        if held is not None and ours:
            world.set(name, (held[0], world.now + seconds), max(seconds, world.left(name)))
        world.learn(ours)
        return ours

    def release(self, leases: Sequence[tuple[str, bytes, str]]) -> None:
        for name, token, _ in leases:
            self.world.stop("release")
            held = self._held(name)
            if held is not None and held[0].token == token:
                self.world.drop(name)

    def holders(self, leases: Sequence[str]) -> list[Lease | None]:
        return [self._live(lease) for lease in leases]

    def put(self, items: Sequence[tuple[str, bytes, float]]) -> None:
        # A pipeline: other clients' commands come between its own.
        for name, value, seconds in items:
            self.world.stop("put")
            self.world.set(name, value, seconds)

    def remove(self, names: Sequence[str]) -> None:
        if names:
            self.world.stop("remove")
        for name in names:
            self.world.drop(name)

    def close(self) -> None:
        """Do nothing."""

    def expire(self, lease: str) -> None:
        """Let a lease end now."""
        held: Any = self._held(lease)
        if held is not None:
            self.world.set(lease, (held[0], self.world.now), self.world.left(lease))


def make_store(level: Level, world: World, breaks: Breaks = SOUND) -> SwitchingStore | AtomicStore:
    """Return the store of a level."""
    kind = SwitchingStore if level is Level.VALIDATED else AtomicStore
    return kind(world, breaks)
