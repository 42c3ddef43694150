"""Read several calls in one round trip."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from async_cache import clock, flights, publisher
from async_cache.cold import Answered, answer, board, processed, serves_others, value_or
from async_cache.dispatchers.base import RefreshRequest
from async_cache.effects import run
from async_cache.entry import MISSING
from async_cache.exceptions import RecursiveFetch, StoreUnavailable
from async_cache.reading import Judged, Raws, judge, special, too_stale, unusual, wish
from async_cache.refresh import NO_ENTRY, Attempt, Purpose, State, new_token, obtain

if TYPE_CHECKING:
    from async_cache.targets import Address, Runtime

__all__ = ["Sorted", "addresses_of", "get_many", "raised", "sort_out"]


@dataclass(slots=True)
class Sorted:
    """What several calls come to after one read.

    Attributes:
        answers: By entry: values, and exceptions in the places of failed calls.
        cold: Calls without a servable value.
        late: Calls whose value is older than ``max_stale``: with the id of the entry, and the
            value.
        requests: Refreshes to be asked for.
    """

    answers: dict[str, Any] = field(default_factory=dict)
    cold: list[Address] = field(default_factory=list)
    late: list[tuple[Address, bytes, Any]] = field(default_factory=list)
    requests: list[RefreshRequest] = field(default_factory=list)


def get_many(
    runtime: Runtime, calls: Sequence[tuple[tuple[Any, ...], Mapping[str, Any]]]
) -> list[Any]:
    """Return the values of several calls, in order; exceptions in the places of failed ones."""
    addresses = addresses_of(runtime, calls)
    result = Sorted()
    plain = _without_special(runtime, addresses, result)
    found: Sequence[Raws] = [(None,)] * len(plain)
    if plain:
        with suppress(StoreUnavailable):  # announced by the store; fetched directly below
            found = runtime.store.read_many([address.handle for address in plain])
    sort_out(runtime, plain, found, result)
    # In one go: what belongs together travels in one message.
    publisher.submit_many(result.requests)
    answers = result.answers
    cold = [(address, NO_ENTRY, MISSING) for address in result.cold]
    for wanted, purpose in ((cold, Purpose.COLD), (result.late, Purpose.TOO_STALE)):
        for address, stale, call in _fly(runtime, wanted, purpose, answers):
            answers[address.entry] = raised(partial(_landed, runtime, address, stale, call))
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
    runtime: Runtime, addresses: Sequence[Address], found: Sequence[Raws], result: Sorted
) -> None:
    """Answer what can be served; sort the other calls by what they need."""
    careful = unusual(runtime)
    for address, raws in zip(addresses, found, strict=True):
        judged = raised(partial(judge, runtime, address, raws))
        if isinstance(judged, StoreUnavailable):
            judged = None  # lost between two reads, and announced
        # The entry may have brought tags that were not known before.
        other = special(runtime, address) if careful else None
        if other is not None:
            result.answers[address.entry] = raised(other)
        elif judged is None:
            _sort_miss(runtime, address, result)
        else:
            _sort_hit(runtime, address, raws, judged, result)


def _sort_miss(runtime: Runtime, address: Address, result: Sorted) -> None:
    if runtime.fetch_on_miss:
        result.cold.append(address)
        return
    request = wish(runtime, address, NO_ENTRY, ())
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
        result.late.append((address, header.entry_id, value))
        return
    if decision.refresh:
        request = wish(runtime, address, header.entry_id, raws)
        if request is not None:
            result.requests.append(request)
    result.answers[address.entry] = raised(
        partial(processed, runtime, address, value, decision.status)
    )


_Wanted: TypeAlias = "tuple[Address, bytes, Any]"
"""A call, the id of the entry it would replace, and the value to fall back on or `MISSING`."""


def _fly(
    runtime: Runtime,
    wanted: Sequence[_Wanted],
    purpose: Purpose,
    answers: dict[str, Any],
) -> list[tuple[Address, Any, tuple[Attempt, bool]]]:
    """Obtain the values of several calls; the wait for others is one for all of them."""
    deadline = clock.monotonic() + runtime.policy.wait
    landed: list[tuple[Address, Any, tuple[Attempt, bool]]] = []
    while wanted:
        ours, theirs = _board(runtime, wanted, answers)
        _lead(runtime, [(attempt, flight) for _, attempt, flight in ours], purpose, deadline)
        landed += [(address, stale, (attempt, True)) for (address, _, stale), attempt, _ in ours]
        again = []
        for one, flight in theirs:
            address, _, stale = one
            try:
                attempt_: Attempt | None = flight.result(max(0.0, deadline - clock.monotonic()))
            except TimeoutError:
                given_up = Attempt(address, b"", state=State.UNAVAILABLE)
                landed.append((address, stale, (given_up, True)))
                continue
            if attempt_ is not None and serves_others(attempt_, deadline):
                landed.append((address, stale, (attempt_, False)))
            else:
                again.append(one)
        wanted = again
    return landed


def _board(
    runtime: Runtime, wanted: Sequence[_Wanted], answers: dict[str, Any]
) -> tuple[list[tuple[_Wanted, Attempt, Future[Any] | None]], list[tuple[_Wanted, Future[Any]]]]:
    """Split calls into those this caller fetches and those it waits for."""
    ours: list[tuple[_Wanted, Attempt, Future[Any] | None]] = []
    theirs: list[tuple[_Wanted, Future[Any]]] = []
    for one in wanted:
        address, replaces, _ = one
        try:
            flight, leads = board(runtime, address)
        except RecursiveFetch as error:
            answers[address.entry] = error
            continue
        if leads or flight is None:
            ours.append((one, Attempt(address, new_token(), replaces), flight))
        else:
            theirs.append((one, flight))
    return ours, theirs


def _lead(
    runtime: Runtime,
    boarded: Sequence[tuple[Attempt, Future[Any] | None]],
    purpose: Purpose,
    deadline: float,
) -> None:
    if not boarded:
        return
    done = False
    try:
        wait = deadline - clock.monotonic()
        run(obtain(runtime, [attempt for attempt, _ in boarded], purpose, wait))
        done = True
    finally:
        for attempt, flight in boarded:
            if flight is not None:
                flights.finish(attempt.address.entry, flight, attempt if done else None)


def _landed(runtime: Runtime, address: Address, stale: Any, call: tuple[Attempt, bool]) -> Any:
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
