"""The read path: from arguments to a value.

`get` is the hot path: one round trip, no lock, no import, nothing written. Everything that is not
a hit leaves it for the functions below.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from random import random
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async

from async_cache import clock, fetching, flights, invalidation, publisher, transactions
from async_cache.dispatchers.base import RefreshRequest
from async_cache.effects import arun, run
from async_cache.entry import MISSING, NEGATIVE, Header, Status, open_entry
from async_cache.exceptions import (
    EntryRejected,
    FetchUnavailable,
    RecursiveFetch,
    StoreUnavailable,
)
from async_cache.guards import guarded
from async_cache.policy import Decision, age, decide
from async_cache.refresh import (
    NO_ENTRY,
    Attempt,
    Purpose,
    State,
    fetch_directly,
    new_token,
    obtain,
    unavailable,
)
from async_cache.serializers import load_value
from async_cache.serializers.negatives import load_negative

if TYPE_CHECKING:
    from async_cache.effects import Steps
    from async_cache.targets import Address, Runtime

__all__ = ["aget", "aget_many", "arefresh", "get", "get_many", "peek", "refresh"]

_Raws = Sequence[bytes | None]


def get(runtime: Runtime, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return the value of a call; see `AsyncCacheJob.get`."""
    address = runtime.address(args, kwargs)
    if invalidation.unconfirmed or transactions.active() or not runtime.enabled:
        special = _special(runtime, address)
        if special is not None:
            return special()
    try:
        raws = runtime.store.read(address.handle)
        raw = raws[0]
        if raw is not None:
            header = open_entry(raw, address.opener)
            if header.meta and header.tags != address.tags:
                raws = _reread(runtime, address, header, raws)
            decision = decide(
                header,
                raws[1:],
                clock.now(),
                runtime.policy.early,
                runtime.policy.early_window,
                1.0 - random() if runtime.policy.early else 1.0,
            )
            if decision.servable:
                if header.flags & NEGATIVE:
                    raise _Answered(load_negative(raw, header, runtime.max_value_size))
                value = load_value(raw, header, runtime.max_value_size)
                if decision is not Decision.FRESH:
                    value = _serve(runtime, address, header, raws, decision, value)
                if runtime.processes:
                    return runtime.job.process_result(value, address.call, decision.status)
                return value
    except EntryRejected as error:
        runtime.reject(address, error)
    except StoreUnavailable:
        pass  # announced by the store; the value is fetched directly below
    except _Answered as answered:
        raise answered.error from None
    return _miss(runtime, address)


class _Answered(Exception):
    """Carries a negative answer past the handlers of the read."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


def _reread(runtime: Runtime, address: Address, header: Header, raws: _Raws) -> _Raws:
    """Read again with the stamps of the tags that the entry names, and the first read did not."""
    address.learn(header.tags)
    again = runtime.store.read(address.handle)
    # Another entry may have come meanwhile: the first is judged by the stamps in force now.
    return [raws[0], *again[1:]]


def _serve(
    runtime: Runtime,
    address: Address,
    header: Header,
    raws: _Raws,
    decision: Decision,
    value: Any,
) -> Any:
    """Serve a value whose refresh is due: at once, or after it when older than ``max_stale``."""
    limit = runtime.policy.max_stale
    if limit is not None and age(header, clock.now()) > limit:
        attempt, own = _fly(runtime, address, Purpose.TOO_STALE, header.entry_id)
        return _value_or(runtime, attempt, value, own=own)
    renew(runtime, address, header.entry_id, raws)
    return value


def renew(runtime: Runtime, address: Address, entry_id: bytes, raws: _Raws) -> None:
    """Ask for a refresh, unless this process has lately asked for the same."""
    stamps = b"".join(stamp or b"" for stamp in raws[1:])
    if not guarded(address.entry, entry_id, stamps):
        publisher.submit(RefreshRequest(runtime, address, entry_id, stamps))


def _special(runtime: Runtime, address: Address) -> Callable[[], Any] | None:
    """Return what answers in place of a plain read, or None when a plain read will do."""
    if not runtime.enabled:
        return lambda: _direct(runtime, address)
    if transactions.active():
        if transactions.is_invalidated(address.scopes):
            return lambda: _direct(runtime, address)
        held = transactions.held(address.entry)
        if isinstance(held, bytes):
            return lambda: _processed(
                runtime, address, runtime.serializer.loads(held), Status.FRESH
            )
    if invalidation.unconfirmed and invalidation.reaches(address.scopes):
        # Gone, and the cache was not there to be told: what it holds must not be served.
        return lambda: _direct(runtime, address)
    return None


def _direct(runtime: Runtime, address: Address) -> Any:
    attempt = Attempt(address, new_token())
    run(fetch_directly(runtime, [attempt]))
    return _answer(runtime, attempt, own=True)


def _miss(runtime: Runtime, address: Address) -> Any:
    if not runtime.fetch_on_miss:
        renew(runtime, address, NO_ENTRY, ())
        return runtime.job.empty(*address.call.args, **address.call.kwargs)
    attempt, own = _fly(runtime, address, Purpose.COLD)
    return _answer(runtime, attempt, own=own)


# --- one flight a key and process -----------------------------------------------------------------


def _fly(
    runtime: Runtime, address: Address, purpose: Purpose, replaces: bytes = NO_ENTRY
) -> tuple[Attempt, bool]:
    """Obtain a value, or wait for whoever in this process does; tell whether it is our own."""
    deadline = clock.monotonic() + runtime.policy.wait
    while True:
        attempt = Attempt(address, new_token(), replaces)
        flight, leads = _board(runtime, address)
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
                flights.finish(address.entry, flight, landed)
            return attempt, True
        try:
            answer: Attempt | None = flight.result(timeout=max(0.0, left))
        except TimeoutError:
            attempt.state = State.UNAVAILABLE
            return attempt, True
        if answer is not None:
            return answer, False


def _board(runtime: Runtime, address: Address) -> tuple[Future[Any] | None, bool]:
    """Join the flight of a key; None where waiting for one could be waiting for oneself."""
    inside = fetching.being_fetched()
    if address.entry in inside:
        raise RecursiveFetch(
            f"{runtime.name}: the fetch asked for its own key. Call fetch() itself, or peek()."
        )
    flight, leads = flights.join(address.entry)
    if inside and not leads:
        return None, False
    return flight, leads


def _value_of(runtime: Runtime, attempt: Attempt, *, own: bool) -> Any:
    """Return the value of a settled attempt: the fetched object itself only to who fetched it."""
    raw = attempt.raw
    if raw is not None and not (own and attempt.state is State.FETCHED):
        header = open_entry(raw, attempt.address.opener)
        if header.flags & NEGATIVE:
            raise _Answered(load_negative(raw, header, runtime.max_value_size))
        return runtime.load(header, raw)
    return attempt.value


def _value_or(runtime: Runtime, attempt: Attempt, stale: Any, *, own: bool) -> Any:
    """Return what a refresh gave, or the stale value when it gave none."""
    if attempt.state is State.NEGATIVE and attempt.error is not None:
        raise _Answered(attempt.error)
    if attempt.state in (State.FETCHED, State.FOUND):
        return _value_of(runtime, attempt, own=own)
    return stale


def _answer(runtime: Runtime, attempt: Attempt, *, own: bool) -> Any:
    """Return or raise what a settled attempt means to a caller without another value."""
    address = attempt.address
    state = attempt.state
    if state in (State.FETCHED, State.FOUND):
        try:
            value = _value_of(runtime, attempt, own=own)
        except _Answered as answered:
            raise answered.error from None
        status = Status.FRESH if state is State.FETCHED else Status.STALE
        return _processed(runtime, address, value, status)
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


def _processed(runtime: Runtime, address: Address, value: Any, status: Status) -> Any:
    if runtime.processes:
        return runtime.job.process_result(value, address.call, status)
    return value


# --- the other reads ------------------------------------------------------------------------------


def peek(runtime: Runtime, address: Address) -> Any:
    """Return the servable value or `MISSING`; fetch nothing, ask for nothing."""
    try:
        raws = runtime.store.read(address.handle)
        found = _judge(runtime, address, raws)
    except StoreUnavailable:
        return MISSING
    if found is None or isinstance(found[1], _Answered):
        return MISSING
    header, value, decision = found
    return _processed(runtime, address, value, decision.status)


def _judge(
    runtime: Runtime, address: Address, raws: _Raws
) -> tuple[Header, Any, Decision] | None:
    """Return header, value and decision of what was read; None for a miss.

    A negative answer comes as an `_Answered` in the place of the value.
    """
    raw = raws[0]
    if raw is None:
        return None
    try:
        header = open_entry(raw, address.opener)
        if header.meta and header.tags != address.tags:
            raws = _reread(runtime, address, header, raws)
        decision = decide(header, raws[1:], clock.now())
        if invalidation.unconfirmed:
            reached = invalidation.reaches(address.scopes)
            if reached is not None and decision.servable:
                decision = Decision.DELETED if reached else Decision.INVALIDATED
        if not decision.servable:
            return None
        if header.flags & NEGATIVE:
            return header, _Answered(load_negative(raw, header)), decision
        return header, runtime.load(header, raw), decision
    except EntryRejected as error:
        runtime.reject(address, error)
        return None


def refresh(runtime: Runtime, address: Address) -> Any:
    """Fetch now in this thread, store, and return the value."""
    attempt = Attempt(address, new_token())
    run(_forced(runtime, attempt))
    return _answer(runtime, attempt, own=True)


def _forced(runtime: Runtime, attempt: Attempt) -> Steps[None]:
    if not runtime.enabled:
        return fetch_directly(runtime, [attempt])
    return obtain(runtime, [attempt], Purpose.FORCE, runtime.policy.wait)


async def arefresh(runtime: Runtime, address: Address) -> Any:
    """Fetch now, store, and return the value."""
    attempt = Attempt(address, new_token())
    # Shielded: cancelling the caller must not leave a half-done refresh.
    await asyncio.shield(asyncio.ensure_future(arun(_forced(runtime, attempt))))
    return _answer(runtime, attempt, own=True)


def get_many(runtime: Runtime, calls: Sequence[tuple[tuple[Any, ...], Mapping[str, Any]]]) -> list[Any]:
    """Return the values of several calls, in order; exceptions in the places of failed ones."""
    addresses = [runtime.address(args, kwargs) for args, kwargs in calls]
    unique = {address.entry: address for address in addresses}
    answers: dict[str, Any] = {}
    plain = _without_special(runtime, unique, answers)
    try:
        found = runtime.store.read_many([address.handle for address in plain]) if plain else []
    except StoreUnavailable:
        found = [(None,)] * len(plain)  # type: ignore[list-item]
    cold = _sort_out(runtime, plain, found, answers)
    if cold:
        boarded, waiting = _board_all(runtime, cold)
        landed = False
        try:
            attempts = [attempt for attempt, _ in boarded]
            if attempts:
                run(obtain(runtime, attempts, Purpose.COLD, runtime.policy.wait))
            landed = True
        finally:
            for attempt, flight in boarded:
                if flight is not None:
                    flights.finish(attempt.address.entry, flight, attempt if landed else None)
        for attempt, _ in boarded:
            answers[attempt.address.entry] = _caught(runtime, attempt)
        for address in waiting:
            # One wait for all: whatever another still fetches is waited for once.
            answers[address.entry] = _raised(lambda address=address: _miss(runtime, address))
    return [answers[address.entry] for address in addresses]


def _without_special(
    runtime: Runtime, unique: Mapping[str, Address], answers: dict[str, Any]
) -> list[Address]:
    if not (invalidation.unconfirmed or transactions.active() or not runtime.enabled):
        return list(unique.values())
    plain = []
    for entry, address in unique.items():
        special = _special(runtime, address)
        if special is None:
            plain.append(address)
        else:
            answers[entry] = _raised(special)
    return plain


def _sort_out(
    runtime: Runtime, addresses: Sequence[Address], found: Sequence[_Raws], answers: dict[str, Any]
) -> list[Address]:
    """Answer what can be served; return the calls that are cold."""
    cold = []
    for address, raws in zip(addresses, found, strict=True):
        judged = _judge(runtime, address, raws)
        if judged is None:
            if runtime.fetch_on_miss:
                cold.append(address)
            else:
                answers[address.entry] = _raised(lambda address=address: _miss(runtime, address))
            continue
        header, value, decision = judged
        if isinstance(value, _Answered):
            answers[address.entry] = value.error
            continue
        limit = runtime.policy.max_stale
        if decision.refresh:
            if limit is not None and age(header, clock.now()) > limit:
                value = _serve(runtime, address, header, raws, decision, value)
            else:
                renew(runtime, address, header.entry_id, raws)
        answers[address.entry] = _raised(
            lambda address=address, value=value, decision=decision: _processed(
                runtime, address, value, decision.status
            )
        )
    return cold


def _board_all(
    runtime: Runtime, cold: Sequence[Address]
) -> tuple[list[tuple[Attempt, Future[Any] | None]], list[Address]]:
    """Split cold calls into those this caller fetches and those it waits for."""
    boarded: list[tuple[Attempt, Future[Any] | None]] = []
    waiting: list[Address] = []
    for address in cold:
        flight, leads = _board(runtime, address)
        if leads or flight is None:
            boarded.append((Attempt(address, new_token()), flight))
        else:
            waiting.append(address)
    return boarded, waiting


def _caught(runtime: Runtime, attempt: Attempt) -> Any:
    return _raised(lambda: _answer(runtime, attempt, own=True))


def _raised(call: Callable[[], Any]) -> Any:
    """Return what a call returns, or the exception it raises."""
    try:
        return call()
    except Exception as error:
        return error


# --- async ----------------------------------------------------------------------------------------


async def aget(runtime: Runtime, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return the value of a call without blocking the event loop."""
    address = runtime.address(args, kwargs)
    if invalidation.unconfirmed or not runtime.enabled:
        return await _ahopped(runtime, lambda: get(runtime, args, kwargs), address)
    try:
        raws = await _aread(runtime, address)
        if raws[0] is not None:
            header = open_entry(raws[0], address.opener)
            if header.meta and header.tags != address.tags:
                address.learn(header.tags)
                raws = [raws[0], *(await _aread(runtime, address))[1:]]
        judged = _judge(runtime, address, raws)
    except EntryRejected as error:
        runtime.reject(address, error)
        judged = None
    except StoreUnavailable:
        judged = None
    if judged is None:
        return await _amiss(runtime, address)
    header, value, decision = judged
    if isinstance(value, _Answered):
        raise value.error
    if decision.refresh:
        limit = runtime.policy.max_stale
        if limit is not None and age(header, clock.now()) > limit:
            attempt, own = await _afly(runtime, address, Purpose.TOO_STALE, header.entry_id)
            try:
                value = _value_or(runtime, attempt, value, own=own)
            except _Answered as answered:
                raise answered.error from None
        else:
            await _arenew(runtime, address, header.entry_id, raws)
    return _processed(runtime, address, value, decision.status)


async def _aread(runtime: Runtime, address: Address) -> _Raws:
    twin = runtime.async_store
    if twin is None:
        raws: _Raws = await sync_to_async(runtime.store.read, thread_sensitive=True)(
            address.handle
        )
        return raws
    return await twin.read(address.async_handle())


async def _arenew(runtime: Runtime, address: Address, entry_id: bytes, raws: _Raws) -> None:
    stamps = b"".join(stamp or b"" for stamp in raws[1:])
    if not guarded(address.entry, entry_id, stamps):
        await publisher.asubmit_many([RefreshRequest(runtime, address, entry_id, stamps)])


async def _ahopped(runtime: Runtime, call: Callable[[], Any], address: Address) -> Any:
    if runtime.fetches_async:
        attempt = Attempt(address, new_token())
        await arun(fetch_directly(runtime, [attempt]))
        return _answer(runtime, attempt, own=True)
    return await sync_to_async(call, thread_sensitive=True)()


async def _amiss(runtime: Runtime, address: Address) -> Any:
    if not runtime.fetch_on_miss:
        await _arenew(runtime, address, NO_ENTRY, ())
        return runtime.job.empty(*address.call.args, **address.call.kwargs)
    attempt, own = await _afly(runtime, address, Purpose.COLD, NO_ENTRY)
    return _answer(runtime, attempt, own=own)


async def _afly(
    runtime: Runtime, address: Address, purpose: Purpose, replaces: bytes
) -> tuple[Attempt, bool]:
    deadline = clock.monotonic() + runtime.policy.wait
    while True:
        attempt = Attempt(address, new_token(), replaces)
        flight, leads = _board(runtime, address)
        if flight is None:
            await arun(fetch_directly(runtime, [attempt]))
            return attempt, True
        left = deadline - clock.monotonic()
        if leads:
            # A task of its own: cancelling this caller never cancels the shared refresh.
            task = asyncio.ensure_future(_alead(runtime, attempt, purpose, left, flight))
            await asyncio.shield(task)
            return attempt, True
        try:
            async with asyncio.timeout(max(0.0, left)):
                answer: Attempt | None = await asyncio.shield(asyncio.wrap_future(flight))
        except TimeoutError:
            attempt.state = State.UNAVAILABLE
            return attempt, True
        if answer is not None:
            return answer, False


async def _alead(
    runtime: Runtime, attempt: Attempt, purpose: Purpose, wait: float, flight: Future[Any]
) -> None:
    landed = None
    try:
        await arun(obtain(runtime, [attempt], purpose, wait))
        landed = attempt
    finally:
        flights.finish(attempt.address.entry, flight, landed)


async def aget_many(
    runtime: Runtime, calls: Sequence[tuple[tuple[Any, ...], Mapping[str, Any]]]
) -> list[Any]:
    """Return the values of several calls without blocking the event loop."""
    if runtime.fetches_async:

        async def one(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            try:
                return await aget(runtime, args, kwargs)
            except Exception as error:
                return error

        return list(await asyncio.gather(*(one(args, kwargs) for args, kwargs in calls)))
    values: list[Any] = await sync_to_async(get_many, thread_sensitive=True)(runtime, calls)
    return values
