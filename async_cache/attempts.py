"""One call on its way through a refresh: what is known of it, and what it has come to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from async_cache.entry import ENTRY_ID_SIZE, MISSING, Header, Status
from async_cache.exceptions import FetchUnavailable
from async_cache.policy import Decision, Failure, age
from async_cache.stores.base import Claimed, Outcome

if TYPE_CHECKING:
    from async_cache.addresses import Address
    from async_cache.targets import Runtime

__all__ = ["NO_ENTRY", "Attempt", "Purpose", "State", "new_token", "settles", "unavailable"]

NO_ENTRY: Final = b"\0" * ENTRY_ID_SIZE
"""The id of the entry to be replaced, where there is none."""


class Purpose(Enum):
    """Why a refresh runs, hence what makes it unnecessary."""

    COLD = "cold"  # a caller has nothing: any servable entry will do
    TOO_STALE = "too stale"  # a caller has only what is older than max_stale
    RENEW = "renew"  # a message: another's fresh entry will do
    FORCE = "force"  # refresh(): nothing but a fetch will do


class State(Enum):
    """How far an attempt has come."""

    PENDING = "pending"
    LOST = "lost"  # another is fetching
    FOUND = "found"  # another has stored what will do
    FETCHED = "fetched"
    NEGATIVE = "negative"  # the fetch answered "does not exist"
    FAILED = "failed"
    BACKED_OFF = "backed off"  # the last fetch failed, and the next is not due
    UNAVAILABLE = "unavailable"  # waited long enough for another's fetch


@dataclass(slots=True, eq=False)
class Attempt:
    """One call on its way through a refresh.

    Attributes:
        address: The call.
        token: Names this attempt as the owner of the lease.
        replaces: Id of the entry that was found stale.
        state: How far it has come.
        claimed: The answer to the claim.
        header: Header of the entry found, or replaced.
        raw: The sealed entry that was found or committed, for others who wait in this process.
        value: What was fetched.
        error: What the fetch raised: a failure, or a negative answer.
        failure: The record of failed fetches.
        stored: What became of the commit; None when there was none.
        born_stale: Whether one of its tags was invalidated during the fetch.
        private: Whether the answer is for this caller only: it was read in a transaction, or was
            deleted or overwritten meanwhile.
        status: Fresh, unless what was found is stale.
        queued: Seconds that its message was on the way; None without one.
    """

    address: Address
    token: bytes
    replaces: bytes = NO_ENTRY
    state: State = State.PENDING
    claimed: Claimed | None = None
    header: Header | None = None
    raw: bytes | None = None
    value: Any = MISSING
    error: Exception | None = None
    failure: Failure | None = None
    stored: Outcome | None = None
    born_stale: bool = False
    private: bool = False
    status: Status = Status.FRESH
    queued: float | None = None


def settles(
    purpose: Purpose,
    decision: Decision,
    header: Header,
    replaces: bytes,
    max_stale: float | None,
    now: float,
) -> bool:
    """Say whether an entry found after the election makes the fetch unnecessary."""
    if purpose is Purpose.FORCE or not decision.servable:
        return False
    if purpose is Purpose.COLD:
        return True
    if purpose is Purpose.TOO_STALE:
        return max_stale is None or age(header, now) <= max_stale
    return decision is Decision.FRESH and header.entry_id != replaces


def new_token() -> bytes:
    """Return a token that names one attempt; as a UUID it names the task."""
    return uuid4().bytes


def unavailable(runtime: Runtime, attempt: Attempt, now: float) -> FetchUnavailable:
    """Return the error for a caller who can be given no value now."""
    failure = attempt.failure
    if failure is not None and attempt.state is State.BACKED_OFF:
        left = failure.remaining(now)
        return FetchUnavailable(
            f"{runtime.name}: the last fetch raised {failure.error_type} "
            f"({failure.count} in a row); the next is tried in {left:.1f} s.",
            error_type=failure.error_type,
            retry_after=left,
        )
    return FetchUnavailable(
        f"{runtime.name}: another process is fetching the value, for longer than this call waits "
        f"({runtime.policy.wait:g} s). Raise the job's `wait`, or override `empty()`.",
    )
