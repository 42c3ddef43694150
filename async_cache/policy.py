"""What to do with an entry: pure decisions, with the time passed in.

`decide` is the heart of the package. It looks at an entry's header, at the stamps read in the same
round trip and at the clock, and says whether the value may be served and whether it should be
refreshed. Nothing here reads a clock, a setting or a store.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from async_cache.entry import BORN_STALE, NEGATIVE, STAMP_SIZE, Header, Status

__all__ = [
    "BACKOFF_CAP",
    "BACKOFF_FIRST",
    "CLOCK_TOLERANCE",
    "Decision",
    "Failure",
    "RefreshPolicy",
    "age",
    "decide",
    "distrusted",
    "expiry",
    "next_failure",
]

# The job's stamp and the key's hard stamp lead: a change there means "gone", any other "stale".
_HARD: Final = 2 * STAMP_SIZE

CLOCK_TOLERANCE: Final = 5.0
"""Seconds by which two hosts' clocks may differ before an entry counts as from the future."""

BACKOFF_FIRST: Final = 1.0
"""Seconds of back-off after the first failed fetch; doubled by each further one."""

BACKOFF_CAP: Final = 60.0
"""Longest back-off, seconds."""


class Decision(Enum):
    """What a reader does with an entry, and why.

    Attributes:
        status: Fresh, stale or miss.
        refresh: Whether a refresh is due.
        reason: A phrase for people, as `explain` shows it.
    """

    FRESH = (Status.FRESH, False, "within its ttl")
    EARLY = (Status.FRESH, True, "within its ttl, chosen for an early refresh")
    EXPIRED = (Status.STALE, True, "older than its ttl")
    INVALIDATED = (Status.STALE, True, "invalidated since its fetch began")
    AHEAD = (Status.STALE, True, "from a clock ahead of this one")
    ABSENT = (Status.MISS, True, "not in the cache")
    DEAD = (Status.MISS, True, "older than ttl + grace")
    DELETED = (Status.MISS, True, "deleted, cleared or overwritten since its fetch began")
    UNSTAMPED = (Status.MISS, True, "its stamps were lost by the cache")
    OUTDATED = (Status.MISS, True, "a negative answer, invalidated since its fetch began")
    REJECTED = (Status.MISS, True, "its bytes do not open here")

    def __init__(self, status: Status, refresh: bool, reason: str) -> None:
        self.status = status
        self.refresh = refresh
        self.reason = reason
        self.servable = status is not Status.MISS


class RefreshPolicy(NamedTuple):
    """The time options of a job, in seconds.

    Attributes:
        ttl: How long a value is fresh; None never turns stale, 0 always is.
        grace: How long past ttl it may still be served.
        max_stale: Age past which a reader waits for a refresh; None is never.
        wait: How long a cold reader waits for another's fetch.
        fetch_timeout: How long a fetch may take.
        lease: How long the right to refresh lasts between two heartbeats.
        negative_ttl: How long "does not exist" is an answer.
        jitter: Largest part of the ttl that is cut off at random, 0 to 1.
        early: Weight of the early refresh; 0 turns it off.
        early_window: Seconds before the ttl's end at which a refresh starts; 0 turns it off.
        max_lifetime: Cap of ttl + grace.
    """

    ttl: float | None = 600.0
    grace: float = 86_400.0
    max_stale: float | None = None
    wait: float = 30.0
    fetch_timeout: float = 30.0
    lease: float = 30.0
    negative_ttl: float = 30.0
    jitter: float = 0.0
    early: float = 0.0
    early_window: float = 0.0
    max_lifetime: float = 30 * 86_400.0


def decide(
    header: Header,
    stamps: Sequence[bytes | None],
    now: float,
    early: float = 0.0,
    early_window: float = 0.0,
    draw: float = 1.0,
) -> Decision:
    """Say what a reader does with an entry.

    Args:
        header: The opened entry.
        stamps: The stamps in force, in the order the entry records them: job, key hard, key soft,
            then one a tag; None where the cache has none.
        now: Wall clock.
        early: Weight of probabilistic early refresh, 0 for none.
        early_window: Threshold of early refresh in seconds, 0 for none.
        draw: A random number in (0, 1] for the early refresh.

    Returns:
        The decision. Early refresh follows XFetch (Vattani, Chierichetti, Lowenstein, "Optimal
        Probabilistic Cache Stampede Prevention", VLDB 2015).
    """
    if now >= header.dead_at:
        return Decision.DEAD
    try:
        current = b"".join(stamps)  # type: ignore[arg-type]
    except TypeError:
        return Decision.UNSTAMPED
    if current != header.stamps:
        if current[:_HARD] != header.stamps[:_HARD]:
            return Decision.DELETED
        return _invalidated(header)
    if header.flags & BORN_STALE:
        return _invalidated(header)
    if now >= header.fresh_until:
        # A negative answer has no grace, so here it is dead already.
        return Decision.EXPIRED
    if header.fetch_started > now + CLOCK_TOLERANCE:
        return Decision.AHEAD
    if early or early_window:
        ahead = early_window
        if early and not header.flags & NEGATIVE:
            ahead = max(ahead, -header.fetch_seconds * early * math.log(draw))
        if now + ahead >= header.fresh_until:
            return Decision.EARLY
    return Decision.FRESH


def _invalidated(header: Header) -> Decision:
    # "Does not exist" has no grace: served once more, it would deny what has just been created.
    return Decision.OUTDATED if header.flags & NEGATIVE else Decision.INVALIDATED


def distrusted(decision: Decision, header: Header) -> float:
    """Return for how many seconds after it came an entry cannot be stale, if clocks agree.

    Zero where the reason for its refresh is no clock.
    """
    if decision is not Decision.EXPIRED and decision is not Decision.AHEAD:
        return 0.0
    return header.fresh_until - header.fetch_started - header.fetch_seconds


def age(header: Header, now: float) -> float:
    """Return seconds since the entry's fetch began, never negative."""
    return max(0.0, now - header.fetch_started)


def expiry(
    started: float, ttl: float | None, grace: float, cut: float, max_lifetime: float
) -> tuple[float, float]:
    """Return when a value turns stale and when it is dead.

    Args:
        started: When its fetch began; age counts from here.
        ttl: Seconds fresh; None never turns stale.
        grace: Seconds servable past that.
        cut: Part of the ttl and of the whole life to cut off (jitter), 0 to 1.
        max_lifetime: Cap of the whole.
    """
    if ttl is None:
        return math.inf, started + max_lifetime
    life = min(ttl + grace, max_lifetime)
    return started + min(ttl * (1.0 - cut), life), started + life


@dataclass(frozen=True, slots=True)
class Failure:
    """The record of failed fetches of one key; it never touches the value.

    Attributes:
        count: Failed fetches in a row.
        until: Wall clock before which no fetch is tried.
        error_type: Qualified name of the last exception's class.
    """

    count: int
    until: float
    error_type: str

    def encode(self) -> bytes:
        """Return the record as bytes."""
        return f"{self.count}|{self.until:.3f}|{self.error_type}".encode()

    @classmethod
    def decode(cls, raw: bytes | None) -> Failure | None:
        """Return the record, or None for no record or bytes that are none."""
        if raw is None or len(raw) > 1024:
            return None
        try:
            count, until, error_type = raw.decode().split("|", 2)
            failure = cls(int(count), float(until), error_type)
        except (ValueError, UnicodeDecodeError):
            return None
        return failure if math.isfinite(failure.until) and failure.count > 0 else None

    def remaining(self, now: float) -> float:
        """Return seconds of back-off left; a record from a clock far ahead has none."""
        left = self.until - now
        return left if 0 < left <= BACKOFF_CAP + CLOCK_TOLERANCE else 0.0


def next_failure(
    previous: Failure | None, error_type: str, now: float, draw: float
) -> tuple[Failure, float]:
    """Return the record after one more failed fetch, and how many seconds to keep it.

    Args:
        previous: The record before, None for the first failure.
        error_type: Qualified name of the exception's class.
        now: Wall clock.
        draw: Jitter, a random number in [0, 1): the back-off is 50 % to 100 % of its step.
    """
    count = (previous.count if previous else 0) + 1
    step = min(BACKOFF_CAP, BACKOFF_FIRST * 2.0 ** min(count - 1, 30))
    # The record outlives its back-off, so that the next failure still finds the count.
    return Failure(count, now + step * (0.5 + draw / 2), error_type), 2 * step + BACKOFF_CAP
