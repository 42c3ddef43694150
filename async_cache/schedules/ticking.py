"""One tick of a job's schedule: ask for the refreshes of its calls that are due.

A call is due unless it was refreshed in the later half of the time since the last tick, by
whomever, and stays fresh until after the next. The calls of a tick are spread over a part of that
time, each always at the same place, in a few parts of about a hundred.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final

from async_cache import clock, publisher
from async_cache.attempts import NO_ENTRY
from async_cache.dispatchers.base import RefreshRequest
from async_cache.policy import Decision, age
from async_cache.reading import judge
from async_cache.schedules.conf import get_schedules_settings

if TYPE_CHECKING:
    from celery.schedules import BaseSchedule

    from async_cache.addresses import Address
    from async_cache.schedules.plans import Plan
    from async_cache.targets import Runtime

__all__ = ["Ticked", "due", "is_due", "parts_of", "period", "spread_of", "tick"]

CHUNK: Final = 100
"""Calls that are looked at in one round trip."""
MAX_PARTS: Final = 10
DRAIN_SECONDS: Final = 5.0
"""How long a tick waits for the publisher where its queue is full."""
MARGIN_SECONDS: Final = 2.0
"""For the way of a message, beside the time that the fetch took last."""


def period(schedule: BaseSchedule) -> float:
    """Return the seconds from now to the next tick, or between two."""
    seconds = getattr(schedule, "seconds", None)
    if isinstance(seconds, int | float):
        return float(seconds)
    return max(1.0, schedule.remaining_estimate(schedule.now()).total_seconds())


def spread_of(every: float) -> float:
    """Return the seconds over which the calls of a tick are spread.

    Args:
        every: Seconds to the next tick.
    """
    settings = get_schedules_settings()
    return min(settings.spread * every, settings.max_spread)


def parts_of(calls: int) -> int:
    """Return into how many parts so many calls are split."""
    return max(1, min(MAX_PARTS, -(-calls // CHUNK)))


def is_due(
    *, fresh_for: float | None, old: float, fetch_seconds: float, period: float, spread: float
) -> bool:
    """Say whether a call is refreshed in this tick.

    Args:
        fresh_for: Seconds for which its value stays fresh; None when it is not.
        old: Seconds since its fetch began.
        fetch_seconds: How long that took.
        period: Seconds to the next tick.
        spread: Seconds by which a refresh may come later than its tick.
    """
    if fresh_for is None:
        return True
    return old >= period / 2 or fresh_for < period + spread + fetch_seconds + MARGIN_SECONDS


class Ticked:
    """What a tick came to.

    Attributes:
        asked: Refreshes on their way.
        fresh: Calls that are not due.
        left: Calls for which the publisher had no room; the next tick, or a read, asks again.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.fresh = 0
        self.left = 0

    def as_dict(self) -> dict[str, int]:
        """Return the numbers by name."""
        return {"asked": self.asked, "fresh": self.fresh, "left": self.left}


def tick(plan: Plan, every: float | None = None, part: int = 0, parts: int = 1) -> Ticked:
    """Ask for the refreshes that are due of a job's calls, or of one part of them.

    Args:
        plan: The job and its calls.
        every: Seconds to the next tick; None: what the schedule says.
        part: Number of the part.
        parts: How many there are.

    Raises:
        ConfigurationError: A call does not fit ``fetch``.
        StoreUnavailable: The cache does not answer.
    """
    ticked = Ticked()
    runtime = plan.instance._runtime
    if not runtime.enabled:
        return ticked  # each get fetches, and nothing is stored
    seconds = period(plan.schedule) if every is None else every
    spread = spread_of(seconds)
    for addresses in _chunks(_addresses(plan, part, parts)):
        wanted = due(runtime, addresses, seconds, spread)
        ticked.fresh += len(addresses) - len(wanted)
        taken = publisher.submit_many(wanted)
        if taken < len(wanted):
            publisher.drain(DRAIN_SECONDS)
            taken += publisher.submit_many(wanted[taken:])
        ticked.asked += taken
        ticked.left += len(wanted) - taken
    return ticked


def _addresses(plan: Plan, part: int, parts: int) -> Iterator[Address]:
    runtime = plan.instance._runtime
    for args, kwargs in plan.calls():
        address = runtime.address(args, kwargs)
        if parts == 1 or int.from_bytes(address.digest.encode()[-4:]) % parts == part:
            yield address


def _chunks(addresses: Iterator[Address]) -> Iterator[list[Address]]:
    while chunk := list(islice(addresses, CHUNK)):
        yield chunk


def due(
    runtime: Runtime, addresses: Sequence[Address], period: float, spread: float
) -> list[RefreshRequest]:
    """Return the requests for those calls that are due."""
    wanted: list[RefreshRequest] = []
    found = runtime.store.read_many([address.handle for address in addresses])
    for address, raws in zip(addresses, found, strict=True):
        judged = judge(runtime, address, raws)
        header = None if judged is None else judged[0]
        fresh_for, old, took = None, 0.0, 0.0
        if judged is not None and header is not None and judged[2] is Decision.FRESH:
            now = clock.now()
            fresh_for, old, took = header.fresh_until - now, age(header, now), header.fetch_seconds
        if is_due(fresh_for=fresh_for, old=old, fetch_seconds=took, period=period, spread=spread):
            stamps = b"".join(stamp or b"" for stamp in raws[1:])
            replaces = NO_ENTRY if header is None else header.entry_id
            wanted.append(RefreshRequest(runtime, address, replaces, stamps))
    return wanted
