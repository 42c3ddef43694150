"""What must hold at each moment of a run, and when all its actors have ended.

A model beside the store: a version of the source that every writer moves on *before* it tells the
cache, so that each value says how old the data is from which it was made.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from async_cache.addresses import Address
from async_cache.entry import NEGATIVE, Header, Status
from async_cache.policy import Decision, decide
from async_cache.stores.base import Commit, Level, Outcome, Phase
from async_cache.targets import Runtime
from tests.explorer.stores import AtomicStore, SwitchingStore
from tests.explorer.world import World

LEASE = 10.0


class Broken(AssertionError):
    """A promise does not hold in this run."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a stored value came from.

    Attributes:
        key: Of which call it is.
        version: What the source was when it was made.
        serial: Order in which fetches and sets began; it counts nothing else, so that schedules
            which differ in nothing that matters come to one state.
        started: Simulated time then.
        fetched: Whether a fetch made it, rather than a set.
    """

    key: str
    version: int
    serial: int
    started: float
    fetched: bool


@dataclass(slots=True)
class Write:
    """A writer's change.

    Attributes:
        keys: Which calls it reaches.
        tag: Only those with this tag.
        hard: Whether what was there before is gone, rather than stale.
        version: What the source became by it.
        began: When it began, in ticks.
        done: When it had returned, 0 until then.
    """

    keys: tuple[str, ...]
    tag: str
    hard: bool
    version: int
    began: int
    done: int = 0


@dataclass(slots=True, eq=False)
class Flight:
    """A fetch under a lease that has not ended."""

    key: str
    until: float
    flushes: int


@dataclass(slots=True, eq=False)
class Claiming:
    """A refresh between its claim and its end."""

    key: str
    until: float
    late: bool = False


@dataclass(slots=True)
class Watch:
    """The model of one run."""

    world: World
    store: SwitchingStore | AtomicStore
    runtime: Runtime
    addresses: dict[str, Address]
    ticks: int = 0
    serial: int = 0
    version: int = 0
    source: dict[str, int] = field(default_factory=dict)
    ended_sets: dict[int, int] = field(default_factory=dict)
    writes: list[Write] = field(default_factory=list)
    flights: list[Flight] = field(default_factory=list)
    claims: list[Claiming] = field(default_factory=list)
    committed: dict[str, int] = field(default_factory=dict)
    served: int = 0
    opened: dict[bytes, tuple[Header, Origin]] = field(default_factory=dict)

    # What happens.

    def tick(self) -> int:
        """Return a later moment than ever before."""
        self.ticks += 1
        return self.ticks

    def fetched(self, key: str, fetched: bool = True) -> Origin:
        """Note that a fetch begins, or a set."""
        self.serial += 1
        return Origin(key, self.source.get(key, 0), self.serial, self.world.now, fetched)

    def wrote(self, keys: tuple[str, ...], tag: str, hard: bool) -> Write:
        """Note that the source changes; the cache is told next."""
        self.version += 1
        for key in keys:
            self.source[key] = self.version
        write = Write(keys, tag, hard, self.version, self.tick())
        self.writes.append(write)
        return write

    def finished(self, write: Write, origin: Origin | None = None) -> None:
        """Note that a writer has returned."""
        write.done = self.tick()
        if origin is not None:
            self.ended_sets[origin.serial] = write.done

    def returned(self) -> int:
        """Return how many writers have returned."""
        return sum(write.done > 0 for write in self.writes)

    def took_off(self, key: str, until: float, flushes: int) -> Flight:
        """Note that a fetch begins under a lease; two that still have theirs may not meet."""
        world = self.world
        for other in self.flights:
            alive = other.until > world.now and until > world.now
            kept = other.flushes == flushes == world.flushes and not self.straggles(key)
            if other.key == key and alive and kept:
                raise Broken(f"P3: two fetches of {key} in flight while both have a lease")
        flight = Flight(key, until, flushes)
        self.flights.append(flight)
        return flight

    def straggles(self, key: str) -> bool:
        """Whether a refresh has gone on past its lease, where that can end another's.

        A validated store compares a lease's token and then deletes the lease: two commands.
        """
        if self.store.level is Level.FENCED:
            return False
        return any(
            one.key == key and (one.late or one.until <= self.world.now) for one in self.claims
        )

    def claimed(self, keys: list[str]) -> list[Claiming]:
        """Note that a refresh begins to claim leases."""
        claims = [Claiming(key, self.world.now + LEASE) for key in keys]
        self.claims += claims
        return claims

    def gave_up(self, claims: list[Claiming]) -> None:
        """Note that it will touch these leases no more."""
        for claim in claims:
            if claim.until <= self.world.now:
                claim.late = True
            else:
                self.claims.remove(claim)

    def landed(self, flight: Flight) -> None:
        """Note that a fetch has ended."""
        self.flights.remove(flight)

    def answered(self, commits: list[Commit], outcomes: list[Outcome]) -> None:
        """Note what became of commits."""
        for commit, outcome in zip(commits, outcomes, strict=True):
            if outcome is Outcome.COMMITTED:
                _, origin = self.open(commit.puts[-1][1])
                self.committed[origin.key] = max(self.committed.get(origin.key, 0), origin.serial)

    # What a reader sees.

    def open(self, raw: bytes) -> tuple[Header, Origin]:
        """Return header and origin of an entry."""
        found = self.opened.get(raw)
        if found is None:
            for address in self.addresses.values():
                try:
                    header = self.runtime.open(address, raw)
                except Exception:  # noqa: BLE001, S112
                    continue
                answer = self.runtime.answer_of(header, raw)
                origin = answer.args[0] if header.flags & NEGATIVE else answer
                found = self.opened[raw] = header, Origin(*origin)
                break
            else:
                raise Broken("an entry that does not open")
        return found

    def look(self, key: str) -> tuple[Decision, Header, Origin] | None:
        """Return what a reader would make of a key just now."""
        world, address = self.world, self.addresses[key]
        raw = world.get(address.entry)
        if raw is None:
            return None
        header, origin = self.open(raw)
        stamps = [world.get(name) for name in address.stamp_names(header.tags)]
        return self.judge(header, stamps), header, origin

    def judge(self, header: Header, stamps: Any) -> Decision:
        """Decide as a reader does, or as one who is broken on purpose."""
        if self.store.breaks.stamps:
            count = len(header.stamps) // 12
            stamps = [header.stamps[12 * i : 12 * i + 12] for i in range(count)]
        return decide(header, stamps, self.world.now)

    def check(self) -> None:
        """Compare what each key would be answered with now with what may be."""
        for key in self.addresses:
            seen = self.look(key)
            if seen is not None:
                self.check_answer(*seen, self.ticks + 1)

    def check_answer(self, decision: Decision, header: Header, origin: Origin, since: int) -> None:
        """Compare an answer with the writes that had returned before its read began.

        Raises:
            Broken: It may not be given.
        """
        if not decision.servable:
            return
        self.served += 1
        fresh = decision.status is Status.FRESH
        # A set's value is as old as its `set`, which first sees to its stamps.
        age = self.world.now - (origin.started if origin.fetched else header.fetch_started)
        limit = self.runtime.policy
        assert limit.ttl is not None
        negative = header.flags & NEGATIVE
        bound = limit.negative_ttl if negative else limit.ttl + limit.grace
        if age >= bound:
            raise Broken(f"P1: a value {age:g} s old is served")
        if fresh and not negative and age >= limit.ttl:
            raise Broken(f"P1: a value {age:g} s old is served as fresh")
        for write in self.writes:
            if not write.done or write.done >= since or origin.key not in write.keys:
                continue
            if write.tag and write.tag not in header.tags:
                continue
            if origin.version >= write.version:
                continue
            if not origin.fetched and not 0 < self.ended_sets.get(origin.serial, 0) < write.began:
                continue  # a set beside it: either may come last
            if write.hard:
                raise Broken(f"P1, P4: {origin} is served after {write}")
            if fresh or negative:
                raise Broken(f"P4: {origin} is served as fresh after {write}")
        just_now = since > self.ticks
        if just_now and origin.fetched and origin.serial < self.committed.get(origin.key, 0):
            if self.store.level is Level.FENCED:
                raise Broken(f"P3: {origin} was written by a refresh that had lost its lease")
            if fresh:
                raise Broken(f"P3: {origin} is fresh, and was written after a later one")

    def check_leases(self) -> None:
        """After all have ended on their own feet, none holds a lease."""
        for key, address in self.addresses.items():
            (holder,) = self.store.holders([address.lease])
            if holder is not None and holder.phase is Phase.FETCHING:
                raise Broken(f"the lease of {key} was not given back")
