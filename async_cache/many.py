"""Read several calls in one round trip."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from async_cache import clock, flights, publisher
from async_cache.attempts import NO_ENTRY, Attempt, Purpose, State, new_token
from async_cache.cold import Answered, answer, board, processed, serves_others, value_or
from async_cache.dispatchers.base import RefreshRequest
from async_cache.effects import Steps, run
from async_cache.entry import MISSING
from async_cache.exceptions import RecursiveFetch, StoreUnavailable
from async_cache.reading import (
    HARD,
    Judged,
    Raws,
    judge,
    note_hit,
    note_miss,
    special,
    too_stale,
    unusual,
    wish,
)
from async_cache.refresh import obtain

if TYPE_CHECKING:
    from async_cache.addresses import Address
    from async_cache.flights import Flight
    from async_cache.targets import Runtime

__all__ = [
    "Sorted",
    "Wanted",
    "addresses_of",
    "fly_many",
    "get_many",
    "in_order",
    "landed",
    "look_up",
    "raised",
    "sort_out",
]


class Wanted(NamedTuple):
    """A call that needs a fetch.

    Attributes:
        address: The call.
        replaces: Id of the entry that a fetch would replace.
        stale: The value to fall back on, or `MISSING`.
        seen: The hard stamps that its read brought.
    """

    address: Address
    replaces: bytes = NO_ENTRY
    stale: Any = MISSING
    seen: Raws = ()


@dataclass(slots=True)
class Sorted:
    """What several calls come to after one read.

    Attributes:
        answers: By entry: values, and exceptions in the places of failed calls.
        cold: Calls without a servable value.
        late: Calls whose value is older than ``max_stale``.
        requests: Refreshes to be asked for.
    """

    answers: dict[str, Any] = field(default_factory=dict)
    cold: list[Wanted] = field(default_factory=list)
    late: list[Wanted] = field(default_factory=list)
    requests: list[RefreshRequest] = field(default_factory=list)

    def wanted(self) -> list[tuple[Sequence[Wanted], Purpose]]:
        """Return the calls that need a fetch, and what for."""
        return [(self.cold, Purpose.COLD), (self.late, Purpose.TOO_STALE)]


def get_many(
    runtime: Runtime, calls: Sequence[tuple[tuple[Any, ...], Mapping[str, Any]]]
) -> list[Any]:
    """Return the values of several calls, in order; exceptions in the places of failed ones."""
    addresses, result = look_up(runtime, calls)
    answers = result.answers
    for wanted, purpose in result.wanted():
        for address, stale, call in run(fly_many(runtime, wanted, purpose, answers)):
            answers[address.entry] = raised(partial(landed, runtime, address, stale, call))
    return in_order(addresses, answers)


def look_up(
    runtime: Runtime, calls: Sequence[tuple[tuple[Any, ...], Mapping[str, Any]]]
) -> tuple[list[Address | Exception], Sorted]:
    """Read several calls, answer what can be served and ask for the refreshes that are due."""
    addresses = addresses_of(runtime, calls)
    result = Sorted()
    plain = _without_special(runtime, addresses, result)
    found: Sequence[Raws] | None = []
    if plain:
        try:
            found = runtime.store.read_many([address.handle for address in plain])
        except StoreUnavailable:
            found = None  # announced by the store; fetched directly below
    sort_out(runtime, plain, found, result)
    # In one go: what belongs together travels in one message.
    publisher.submit_many(result.requests)
    return addresses, result


def in_order(addresses: Sequence[Address | Exception], answers: Mapping[str, Any]) -> list[Any]:
    """Return the answers in the order of the calls."""
    return [one if isinstance(one, Exception) else answers[one.entry] for one in addresses]


def addresses_of(
    runtime: Runtime, calls: Sequence[tuple[tuple[Any, ...], Mapping[str, Any]]]
) -> list[Address | Exception]:
    """Return the address of each call, or the exception that it has none."""
    return [raised(partial(runtime.address, args, kwargs)) for args, kwargs in calls]


def _without_special(
    runtime: Runtime, addresses: Sequence[Address | Exception], result: Sorted
) -> list[Address]:
    unique = {one.entry: one for one in addresses if not isinstance(one, Exception)}
    if not unusual(runtime):
        return list(unique.values())
    plain = []
    for entry, address in unique.items():
        other = special(runtime, address)
        if other is None:
            plain.append(address)
        else:
            result.answers[entry] = raised(other)
    return plain


def sort_out(
    runtime: Runtime, addresses: Sequence[Address], found: Sequence[Raws] | None, result: Sorted
) -> None:
    """Answer what can be served; sort the other calls by what they need.

    Args:
        runtime: The job.
        addresses: The calls.
        found: What was read of each; None when the cache did not answer.
        result: Where they go.
    """
    careful = unusual(runtime)
    for address, raws in zip(addresses, found or [(None,)] * len(addresses), strict=True):
        judged = raised(partial(judge, runtime, address, raws))
        failed = found is None
        if isinstance(judged, StoreUnavailable):
            judged, failed = None, True  # lost between two reads, and announced
        # The entry may have brought tags that were not known before.
        other = special(runtime, address) if careful else None
        if other is not None:
            result.answers[address.entry] = raised(other)
        elif judged is None:
            note_miss(runtime, address, failed)
            _sort_miss(runtime, address, raws, result)
        else:
            note_hit(runtime, address, judged)
            _sort_hit(runtime, address, raws, judged, result)


def _sort_miss(runtime: Runtime, address: Address, raws: Raws, result: Sorted) -> None:
    if runtime.fetch_on_miss:
        result.cold.append(Wanted(address, seen=raws[HARD]))
        return
    request = wish(runtime, address, NO_ENTRY, raws)
    if request is not None:
        result.requests.append(request)
    result.answers[address.entry] = raised(
        partial(runtime.job.empty, *address.call.args, **address.call.kwargs)
    )


def _sort_hit(
    runtime: Runtime, address: Address, raws: Raws, judged: Judged, result: Sorted
) -> None:
    header, value, decision = judged
    if isinstance(value, Answered):
        result.answers[address.entry] = value.error
        return
    if decision.refresh and too_stale(runtime, header):
        result.late.append(Wanted(address, header.entry_id, value, raws[HARD]))
        return
    if decision.refresh:
        request = wish(runtime, address, header.entry_id, raws, judged)
        if request is not None:
            result.requests.append(request)
    result.answers[address.entry] = raised(
        partial(processed, runtime, address, value, decision.status)
    )


class _Landing:
    """Effect: wait for the answer of another's flight."""

    __slots__ = ("flight", "seconds")

    def __init__(self, flight: Flight, seconds: float) -> None:
        self.flight = flight
        self.seconds = max(0.0, seconds)

    def perform(self) -> Any:
        """Block this thread."""
        return self.flight.result(self.seconds)

    async def aperform(self) -> Any:
        """Let the event loop go on."""
        async with asyncio.timeout(self.seconds):
            return await asyncio.shield(asyncio.wrap_future(self.flight))


def fly_many(
    runtime: Runtime,
    wanted: Sequence[Wanted],
    purpose: Purpose,
    answers: dict[str, Any],
) -> Steps[list[tuple[Address, Any, tuple[Attempt, bool]]]]:
    """Obtain the values of several calls; the wait for others is one for all of them."""
    deadline = clock.monotonic() + runtime.policy.wait
    settled: list[tuple[Address, Any, tuple[Attempt, bool]]] = []
    while wanted:
        ours, theirs = _board(runtime, wanted, answers)
        yield from _lead(
            runtime, [(attempt, flight) for _, attempt, flight in ours], purpose, deadline
        )
        settled += [(one.address, one.stale, (attempt, True)) for one, attempt, _ in ours]
        again = []
        for one, flight in theirs:
            address, stale = one.address, one.stale
            try:
                attempt_: Attempt | None = yield _Landing(flight, deadline - clock.monotonic())
            except TimeoutError:
                flights.abandon(address.place, flight, runtime.policy.fetch_timeout)
                given_up = Attempt(address, b"", state=State.UNAVAILABLE)
                settled.append((address, stale, (given_up, True)))
                continue
            if attempt_ is not None and serves_others(attempt_, deadline, one.seen):
                settled.append((address, stale, (attempt_, False)))
            else:
                again.append(one._replace(seen=()))
        wanted = again
    return settled


def _board(
    runtime: Runtime, wanted: Sequence[Wanted], answers: dict[str, Any]
) -> tuple[list[tuple[Wanted, Attempt, Flight | None]], list[tuple[Wanted, Flight]]]:
    """Split calls into those this caller fetches and those it waits for."""
    ours: list[tuple[Wanted, Attempt, Flight | None]] = []
    theirs: list[tuple[Wanted, Flight]] = []
    for one in wanted:
        address = one.address
        try:
            flight, leads = board(runtime, address)
        except RecursiveFetch as error:
            answers[address.entry] = error
            continue
        if leads or flight is None:
            ours.append((one, Attempt(address, new_token(), one.replaces), flight))
        else:
            theirs.append((one, flight))
    return ours, theirs


def _lead(
    runtime: Runtime,
    boarded: Sequence[tuple[Attempt, Flight | None]],
    purpose: Purpose,
    deadline: float,
) -> Steps[None]:
    if not boarded:
        return
    done = False
    try:
        wait = deadline - clock.monotonic()
        yield from obtain(runtime, [attempt for attempt, _ in boarded], purpose, wait)
        done = True
    finally:
        for attempt, flight in boarded:
            if flight is not None:
                flights.finish(attempt.address.place, flight, attempt if done else None)


def landed(runtime: Runtime, address: Address, stale: Any, call: tuple[Attempt, bool]) -> Any:
    """Return or raise what the fetch of one of several calls came to."""
    attempt, own = call
    if stale is MISSING:
        return answer(runtime, attempt, own=own)
    value, status = value_or(runtime, attempt, stale, own=own)
    return processed(runtime, address, value, status)


def raised(call: Callable[[], Any]) -> Any:
    """Return what a call returns, or the exception it raises."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - it stands in the place of the value
        return error
