"""What a caller does who has no value: fetch, or wait for whoever fetches.

One flight a key and process: the first caller leads it through the protocol of `refresh`, the
others wait for its answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from asgiref.sync import sync_to_async

from async_cache import clock, fetching, flights
from async_cache.attempts import NO_ENTRY, Attempt, Purpose, State, new_token, unavailable
from async_cache.effects import arun, run
from async_cache.entry import NEGATIVE, Status, open_entry
from async_cache.exceptions import EntryRejected, FetchUnavailable, RecursiveFetch
from async_cache.refresh import fetch_directly, obtain

if TYPE_CHECKING:
    from async_cache.addresses import Address
    from async_cache.effects import Steps
    from async_cache.flights import Flight
    from async_cache.targets import Runtime

__all__ = [
    "Answered",
    "adirect",
    "afly",
    "answer",
    "arefresh",
    "board",
    "direct",
    "fly",
    "processed",
    "refresh",
    "serves_others",
    "shielded",
    "value_of",
    "value_or",
]


T = TypeVar("T")

Stamps: TypeAlias = Sequence[bytes | None]

_tasks: Final[set[asyncio.Future[Any]]] = set()


class Answered(Exception):
    """Carries a negative answer past the handlers of the read."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


def fly(
    runtime: Runtime,
    address: Address,
    purpose: Purpose,
    replaces: bytes = NO_ENTRY,
    *,
    seen: Stamps = (),
    failed: bool = False,
) -> tuple[Attempt, bool]:
    """Obtain a value, or wait for whoever in this process does; tell whether it is our own.

    Args:
        runtime: The job.
        address: The call.
        purpose: Why a value is wanted.
        replaces: Id of the entry that was found stale.
        seen: The hard stamps that the caller has read, the job's and the key's.
        failed: Whether the cache did not answer the caller's read.
    """
    deadline = clock.monotonic() + runtime.policy.wait
    while True:
        attempt = Attempt(address, new_token(), replaces)
        flight, leads = board(runtime, address, late=failed)
        if flight is None:
            run(fetch_directly(runtime, [attempt]))
            return attempt, True
        left = deadline - clock.monotonic()
        if leads:
            landed = None
            try:
                run(obtain(runtime, [attempt], purpose, left))
                landed = attempt
            finally:
                flights.finish(address.place, flight, landed, linger=_lingers(landed))
            return attempt, True
        try:
            answer: Attempt | None = flight.result(timeout=max(0.0, left))
        except TimeoutError:
            flights.abandon(address.place, flight, runtime.policy.fetch_timeout)
            attempt.state = State.UNAVAILABLE
            return attempt, True
        if answer is not None and serves_others(answer, deadline, seen):
            return answer, False
        # The next flight begins after the caller's read, so it has seen as much.
        seen = ()


def serves_others(attempt: Attempt, deadline: float, seen: Stamps = ()) -> bool:
    """Whether those who waited for a flight until now may take its answer.

    Args:
        attempt: What the flight came to.
        deadline: How long the caller is willing to wait.
        seen: The hard stamps that the caller read before.
    """
    if attempt.private:
        return False
    # A delete that the caller came after, and that the fetch did not: it began before.
    claimed = () if attempt.claimed is None else attempt.claimed.stamps
    if any(mine not in (None, theirs) for mine, theirs in zip(seen, claimed, strict=False)):
        return False
    # Who leads may have waited for another process longer than this caller is willing to.
    return attempt.state is not State.UNAVAILABLE or clock.monotonic() >= deadline


def _lingers(attempt: Attempt | None) -> bool:
    """Whether an answer could be stored nowhere, since the cache did not answer."""
    if attempt is None or attempt.private or attempt.claimed is not None:
        return False
    return attempt.state is State.FETCHED


async def afly(
    runtime: Runtime,
    address: Address,
    purpose: Purpose,
    replaces: bytes = NO_ENTRY,
    *,
    seen: Stamps = (),
    failed: bool = False,
) -> tuple[Attempt, bool]:
    """Do what `fly` does without blocking the event loop."""
    deadline = clock.monotonic() + runtime.policy.wait
    while True:
        attempt = Attempt(address, new_token(), replaces)
        flight, leads = board(runtime, address, late=failed)
        if flight is None:
            await arun(fetch_directly(runtime, [attempt]))
            return attempt, True
        left = deadline - clock.monotonic()
        if leads:
            await shielded(_alead(runtime, attempt, purpose, left, flight))
            return attempt, True
        try:
            async with asyncio.timeout(max(0.0, left)):
                answer: Attempt | None = await asyncio.shield(asyncio.wrap_future(flight))
        except TimeoutError:
            flights.abandon(address.place, flight, runtime.policy.fetch_timeout)
            attempt.state = State.UNAVAILABLE
            return attempt, True
        if answer is not None and serves_others(answer, deadline, seen):
            return answer, False
        # The next flight begins after the caller's read, so it has seen as much.
        seen = ()


async def shielded(work: Coroutine[Any, Any, T]) -> T:
    """Await work that goes on when the caller is cancelled."""
    # A task of its own: cancelling the caller never cancels the refresh that others share. An
    # event loop refers to its tasks weakly, so it is kept here until it ends.
    task = asyncio.ensure_future(work)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return await asyncio.shield(task)


async def _alead(
    runtime: Runtime, attempt: Attempt, purpose: Purpose, wait: float, flight: Flight
) -> None:
    landed = None
    try:
        await arun(obtain(runtime, [attempt], purpose, wait))
        landed = attempt
    finally:
        flights.finish(attempt.address.place, flight, landed, linger=_lingers(landed))


def board(runtime: Runtime, address: Address, *, late: bool = False) -> tuple[Flight | None, bool]:
    """Join the flight of a key; None where waiting for one could be waiting for oneself."""
    inside = fetching.being_fetched()
    if address.entry in inside:
        raise RecursiveFetch(
            f"{runtime.name}: the fetch asked for its own key. Call fetch() itself, or peek()."
        )
    flight, leads = flights.join(address.place, late=late)
    if inside and not leads:
        return None, False
    return flight, leads


def value_of(runtime: Runtime, attempt: Attempt, *, own: bool) -> Any:
    """Return the value of a settled attempt: the fetched object itself only to who fetched it."""
    raw = attempt.raw
    if raw is not None and not (own and attempt.state is State.FETCHED):
        header = open_entry(raw, attempt.address.opener)
        try:
            found = runtime.answer_of(header, raw)
        except EntryRejected:
            return attempt.value  # its bytes were just made from this, and do not open again
        if header.flags & NEGATIVE:
            raise Answered(found)
        return found
    return attempt.value


def value_or(runtime: Runtime, attempt: Attempt, stale: Any, *, own: bool) -> tuple[Any, Status]:
    """Return what a refresh gave, or the stale value when it gave none; with its status.

    Raises:
        Exception: The refresh found a negative answer.
    """
    if attempt.state is State.NEGATIVE and attempt.error is not None:
        raise attempt.error
    if attempt.state in (State.FETCHED, State.FOUND):
        try:
            return value_of(runtime, attempt, own=own), attempt.status
        except Answered as answered:
            raise answered.error from None
    return stale, Status.STALE


def answer(runtime: Runtime, attempt: Attempt, *, own: bool) -> Any:
    """Return or raise what a settled attempt means to a caller without another value."""
    address = attempt.address
    state = attempt.state
    if state in (State.FETCHED, State.FOUND):
        try:
            value = value_of(runtime, attempt, own=own)
        except Answered as answered:
            raise answered.error from None
        return processed(runtime, address, value, attempt.status)
    if state is State.NEGATIVE and attempt.error is not None:
        raise attempt.error
    if runtime.answers_empty:
        return runtime.job.empty(*address.call.args, **address.call.kwargs)
    if state is State.FAILED and attempt.error is not None:
        if own:
            raise attempt.error
        raise _failed_elsewhere(runtime, attempt) from attempt.error
    raise unavailable(runtime, attempt, clock.now())


def _failed_elsewhere(runtime: Runtime, attempt: Attempt) -> FetchUnavailable:
    failure = attempt.failure
    name = failure.error_type if failure else type(attempt.error).__qualname__
    return FetchUnavailable(
        f"{runtime.name}: the fetch this call waited for raised {name}.",
        error_type=name,
        retry_after=failure.remaining(clock.now()) if failure else None,
    )


def processed(runtime: Runtime, address: Address, value: Any, status: Status) -> Any:
    """Return what the job makes of a stored value."""
    if runtime.processes:
        return runtime.job.process_result(value, address.call, status)
    return value


def direct(runtime: Runtime, address: Address) -> Any:
    """Fetch in this thread, without a lease, and store nothing."""
    attempt = Attempt(address, new_token())
    run(fetch_directly(runtime, [attempt]))
    return answer(runtime, attempt, own=True)


def refresh(runtime: Runtime, address: Address) -> Any:
    """Fetch now in this thread, store, and return the value."""
    attempt = Attempt(address, new_token())
    run(_forced(runtime, attempt))
    return answer(runtime, attempt, own=True)


async def arefresh(runtime: Runtime, address: Address) -> Any:
    """Fetch now, store, and return the value."""
    attempt = Attempt(address, new_token())
    await shielded(arun(_forced(runtime, attempt)))
    return answer(runtime, attempt, own=True)


def _forced(runtime: Runtime, attempt: Attempt) -> Steps[None]:
    if not runtime.enabled:
        return fetch_directly(runtime, [attempt])
    return obtain(runtime, [attempt], Purpose.FORCE, runtime.policy.wait)


async def adirect(runtime: Runtime, address: Address) -> Any:
    """Do what `direct` does; a plain ``fetch`` runs in Django's own thread."""
    if not runtime.fetches_async:
        return await sync_to_async(direct, thread_sensitive=True)(runtime, address)
    attempt = Attempt(address, new_token())
    await arun(fetch_directly(runtime, [attempt]))
    return answer(runtime, attempt, own=True)
