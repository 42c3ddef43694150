"""Counts of a job: how they add up, how they travel, what they tell. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

__all__ = ["Counts", "JobStatistics", "to_number"]

SUMS: Final = frozenset(
    {
        *("fresh", "stale", "miss", "error", "age_seconds"),
        *("dispatched", "unanswered", "coalesced", "started", "queued", "queued_seconds"),
        *("committed", "failed", "fetch_seconds", "refused", "dropped", "rejected", "uncached"),
    }
)
"""What is counted. Refused and dropped are counted again by reason: ``refused.lost``."""

MAX_REASONS: Final = 40
LARGEST: Final = 1e300
"""What is not below it, as no count is, cannot be added up."""


@dataclass(slots=True)
class Counts:
    """Counts of one job, of one process or of several.

    Attributes:
        sums: By name; see `SUMS`.
        longest_fetch: Seconds of the longest fetch.
        last_success: When a refresh was last stored; 0 is never.
        last_failure: When a fetch last failed; 0 is never.
        last_error: The type of the error it failed with.
    """

    sums: dict[str, float] = field(default_factory=dict)
    longest_fetch: float = 0.0
    last_success: float = 0.0
    last_failure: float = 0.0
    last_error: str = ""

    def add(self, name: str, number: float = 1) -> None:
        """Count something."""
        self.sums[name] = self.sums.get(name, 0) + number

    def add_reason(self, name: str, reason: str) -> None:
        """Count something, and once more by its reason."""
        self.add(name)
        key = f"{name}.{reason}"
        if key in self.sums or len(self.sums) < len(SUMS) + MAX_REASONS:
            self.add(key)

    def merge(self, other: Counts) -> None:
        """Add the counts of another process."""
        for name, number in other.sums.items():
            self.add(name, number)
        self.longest_fetch = max(self.longest_fetch, other.longest_fetch)
        self.last_success = max(self.last_success, other.last_success)
        if other.last_failure > self.last_failure:
            self.last_failure, self.last_error = other.last_failure, other.last_error

    def take_away(self, other: Counts) -> None:
        """Leave what was counted since the counts were `other`."""
        for name, number in other.sums.items():
            left = self.sums.pop(name, 0) - number
            if left:
                self.sums[name] = left

    def to_plain(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {
            "sums": self.sums,
            "longest_fetch": self.longest_fetch,
            "last_success": self.last_success,
            "last_failure": self.last_failure,
            "last_error": self.last_error,
        }

    @classmethod
    def from_plain(cls, plain: Any) -> Counts:
        """Return the counts that `to_plain` returned.

        Raises:
            ValueError: It did not.
        """
        try:
            sums = {str(name): to_number(value) for name, value in plain["sums"].items()}
            if len(sums) > 2 * (len(SUMS) + MAX_REASONS):
                raise ValueError("too many counts")
            return cls(
                sums,
                to_number(plain["longest_fetch"]),
                to_number(plain["last_success"]),
                to_number(plain["last_failure"]),
                str(plain["last_error"])[:200],
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"no counts: {type(error).__qualname__}") from error


def to_number(value: Any) -> float:
    """Return a number that JSON brought.

    Raises:
        ValueError: It is none, or cannot be counted with.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not -LARGEST < value < LARGEST
    ):
        raise ValueError("a count is no number")
    return value


@dataclass(frozen=True, slots=True)
class JobStatistics:
    """What all processes have counted of one job.

    Attributes:
        job: Its name.
        fresh: Reads answered with a fresh value, or a negative answer.
        stale: Reads answered with a stale value.
        miss: Reads that found nothing servable.
        error: Reads that the cache did not answer.
        mean_age: Mean age of the values served, in seconds; None without any.
        dispatched: Refreshes handed to workers.
        unanswered: Of them, those sent again since nothing had come of them in time: overdue.
        coalesced: Refreshes not started because one was in flight.
        committed: Refreshes stored.
        failed: Fetches that raised, or whose value cannot be stored.
        refused: Refreshes fetched and not stored, by reason.
        dropped: Messages not acted upon, by reason.
        rejected: Stored bytes that did not open.
        uncached: Calls answered without being stored, past ``max_keys``.
        mean_fetch: Mean seconds of a stored fetch; None without any.
        longest_fetch: Seconds of the longest one.
        mean_queued: Mean seconds of a message's way to a worker; None without any.
        last_success: When a refresh was last stored, seconds since the epoch; None for never.
        last_failure: When a fetch last failed; None for never.
        last_error: The type of the error it failed with; never its message.
    """

    job: str
    fresh: int
    stale: int
    miss: int
    error: int
    mean_age: float | None
    dispatched: int
    unanswered: int
    coalesced: int
    committed: int
    failed: int
    refused: Mapping[str, int]
    dropped: Mapping[str, int]
    rejected: int
    uncached: int
    mean_fetch: float | None
    longest_fetch: float
    mean_queued: float | None
    last_success: float | None
    last_failure: float | None
    last_error: str

    @property
    def reads(self) -> int:
        """All reads."""
        return self.fresh + self.stale + self.miss + self.error

    @property
    def hit_ratio(self) -> float | None:
        """The part of the reads that was answered from the cache, 0 to 1; None without reads."""
        return (self.fresh + self.stale) / self.reads if self.reads else None

    @classmethod
    def of(cls, job: str, counts: Counts) -> JobStatistics:
        """Return what counts tell."""
        sums = counts.sums

        def number(name: str) -> int:
            return int(sums.get(name, 0))

        def reasons(name: str) -> Mapping[str, int]:
            start = f"{name}."
            told = {k.removeprefix(start): int(n) for k, n in sums.items() if k.startswith(start)}
            return MappingProxyType(dict(sorted(told.items())))

        return cls(
            job=job,
            fresh=number("fresh"),
            stale=number("stale"),
            miss=number("miss"),
            error=number("error"),
            mean_age=_mean(sums.get("age_seconds", 0), number("fresh") + number("stale")),
            dispatched=number("dispatched"),
            unanswered=number("unanswered"),
            coalesced=number("coalesced"),
            committed=number("committed"),
            failed=number("failed"),
            refused=reasons("refused"),
            dropped=reasons("dropped"),
            rejected=number("rejected"),
            uncached=number("uncached"),
            mean_fetch=_mean(sums.get("fetch_seconds", 0), number("committed")),
            longest_fetch=counts.longest_fetch,
            mean_queued=_mean(sums.get("queued_seconds", 0), number("queued")),
            last_success=counts.last_success or None,
            last_failure=counts.last_failure or None,
            last_error=counts.last_error,
        )


def _mean(total: float, number: int) -> float | None:
    return total / number if number else None
