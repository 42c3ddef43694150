"""The contract of a store: where entries, stamps and leases live.

Names are final cache keys *before* the alias's ``make_key``; a store applies that itself. A failing
backend surfaces as `StoreUnavailable` with the driver's error as its cause.

Two levels. A *fenced* store elects and commits atomically. A *validated* one has only what any
Django cache has, so a refresh that lost its lease may still write; readers refuse what it wrote.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, NamedTuple, TypeAlias

from async_cache.leases import Lease, Phase, may_take

__all__ = [
    "AsyncStore",
    "Claim",
    "Claimed",
    "Commit",
    "Handle",
    "Lease",
    "Level",
    "Outcome",
    "Phase",
    "Store",
    "may_take",
]

#: What `Store.prepare` returns: opaque, immutable, reusable by any thread.
Handle: TypeAlias = Any


class Level(Enum):
    """What a store can promise about a commit."""

    FENCED = "fenced"
    VALIDATED = "validated"


class Outcome(Enum):
    """What became of a commit. Whatever it is, the lease has been given back if it was ours."""

    COMMITTED = "committed"
    LOST = "lost"
    OVERTAKEN = "overtaken"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class Claim:
    """A request for a lease.

    A token names one try: a worker claims under a token of its own, since two deliveries of one
    message would otherwise both win.

    Attributes:
        lease: Name of the lease.
        token: Random bytes that name the claimant.
        phase: What the claimant will do.
        seconds: Length of the lease; a queued one is doubled per dispatch that got no answer.
        trace: Where an unfinished claim is remembered (validated stores).
        life: Seconds for which it is remembered.
        stamps: Stamps to make where missing and to read, when the claim is won.
        stamp_life: Seconds that a new stamp lives.
        reads: Names to read after the election, won or lost.
        members: Name of the set of the job's keys, when their number is limited.
        member: This key in that set.
        max_members: How many keys the job may have; 0 is no limit.
        soft_stamp: Renewed when another's fetch may still write (validated stores).
    """

    lease: str
    token: bytes
    phase: Phase
    seconds: float
    trace: str
    life: float
    stamps: tuple[str, ...] = ()
    stamp_life: float = 0
    reads: tuple[str, ...] = ()
    members: str | None = None
    member: str = ""
    max_members: int = 0
    soft_stamp: str = ""


class Claimed(NamedTuple):
    """The answer to a claim.

    Attributes:
        won: Whether the claimant holds the lease.
        holder: Who holds it, when lost; None when it went free meanwhile.
        attempts: Dispatches before this one that got no answer.
        stamps: Values of `Claim.stamps`; empty when lost.
        values: Values of `Claim.reads`.
        full: Lost because the job has as many keys as it may.
    """

    won: bool
    holder: Lease | None
    attempts: int
    stamps: tuple[bytes, ...]
    values: tuple[bytes | None, ...]
    full: bool = False


@dataclass(frozen=True, slots=True)
class Commit:
    """Writes that happen only while the lease and the hard stamps are intact.

    Attributes:
        lease: Name of the lease, or None to write unconditionally.
        token: Token of the lease.
        trace: As in the claim.
        puts: ``(name, value, seconds)`` in this order, the entry last.
        expect: ``(hard stamp, value)`` that must still hold.
        extend: ``(stamp, seconds)``: lives at least so long from now on; never shortened.
        removes: Names to drop with the write.
        members: Name of the set of the job's keys, or None.
        member: This key in that set, for as long as the last put lives.
        max_members: How many keys the job may have; 0 is no limit.
    """

    lease: str | None
    token: bytes
    trace: str
    puts: tuple[tuple[str, bytes, float], ...]
    expect: tuple[tuple[str, bytes], ...] = ()
    extend: tuple[tuple[str, float], ...] = ()
    removes: tuple[str, ...] = ()
    members: str | None = None
    member: str = ""
    max_members: int = 0


class Store(ABC):
    """Where entries, stamps and leases live.

    Attributes:
        alias: Name in ``CACHES``.
        level: What a commit promises.
        shares: Other processes see what is written here.
        elects: Of several claims, one wins.
    """

    level: ClassVar[Level]
    alias: str
    shares: bool = True
    elects: bool = True

    @property
    def writable_now(self) -> bool:
        """Whether a write made now takes effect at once, rather than with a transaction."""
        return True

    @abstractmethod
    def prepare(self, names: Sequence[str]) -> Handle:
        """Return a handle for reading these names, here or in any thread, any number of times."""

    @abstractmethod
    def read(self, handle: Handle) -> list[bytes | None]:
        """Read in one round trip. What is no bytes at all comes back as empty bytes."""

    @abstractmethod
    def read_many(self, handles: Sequence[Handle]) -> list[list[bytes | None]]:
        """Read several handles in one round trip."""

    @abstractmethod
    def claim(self, claims: Sequence[Claim]) -> list[Claimed]:
        """Try to win each lease."""

    @abstractmethod
    def commit(self, commits: Sequence[Commit]) -> list[Outcome]:
        """Write what may still be written, and give the leases back."""

    @abstractmethod
    def renew(self, leases: Sequence[tuple[str, bytes, float]]) -> list[bool]:
        """Make fetching leases ``(name, token, seconds)`` last; False for each that is lost."""

    @abstractmethod
    def release(self, leases: Sequence[tuple[str, bytes, str]]) -> None:
        """Give back leases ``(name, token, trace)``; their holders will write nothing more."""

    @abstractmethod
    def holders(self, leases: Sequence[str]) -> list[Lease | None]:
        """Return who holds each lease now."""

    @abstractmethod
    def put(self, items: Sequence[tuple[str, bytes, float]]) -> None:
        """Write ``(name, value, seconds)`` in this order, whatever is there."""

    @abstractmethod
    def remove(self, names: Sequence[str]) -> None:
        """Drop names, there or not."""

    @abstractmethod
    def close(self) -> None:
        """Close the store's own connections; a later operation opens new ones."""


class AsyncStore(ABC):
    """The same contract for coroutines; see `Store`."""

    level: Level
    alias: str
    shares: bool = True
    elects: bool = True

    @abstractmethod
    def prepare(self, names: Sequence[str]) -> Handle:
        """Return a handle for reading these names; does no I/O."""

    @abstractmethod
    async def read(self, handle: Handle) -> list[bytes | None]:
        """Read in one round trip."""

    @abstractmethod
    async def read_many(self, handles: Sequence[Handle]) -> list[list[bytes | None]]:
        """Read several handles in one round trip."""

    @abstractmethod
    async def claim(self, claims: Sequence[Claim]) -> list[Claimed]:
        """Try to win each lease."""

    @abstractmethod
    async def commit(self, commits: Sequence[Commit]) -> list[Outcome]:
        """Write what may still be written, and give the leases back."""

    @abstractmethod
    async def renew(self, leases: Sequence[tuple[str, bytes, float]]) -> list[bool]:
        """Make fetching leases last; False for each that is lost."""

    @abstractmethod
    async def release(self, leases: Sequence[tuple[str, bytes, str]]) -> None:
        """Give back leases; their holders will write nothing more."""

    @abstractmethod
    async def holders(self, leases: Sequence[str]) -> list[Lease | None]:
        """Return who holds each lease now."""

    @abstractmethod
    async def put(self, items: Sequence[tuple[str, bytes, float]]) -> None:
        """Write ``(name, value, seconds)`` in this order, whatever is there."""

    @abstractmethod
    async def remove(self, names: Sequence[str]) -> None:
        """Drop names, there or not."""

    @abstractmethod
    def close(self) -> None:
        """Close the store's own idle connections; needs no event loop."""
