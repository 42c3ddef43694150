"""Read several calls in one round trip."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from async_cache import clock, flights, invalidation, transactions
from async_cache.cold import Answered, answer, board, processed
from async_cache.effects import run
from async_cache.exceptions import StoreUnavailable
from async_cache.policy import age
from async_cache.reading import Raws, judge, miss, renew, serve, special
from async_cache.refresh import Attempt, Purpose, new_token, obtain

if TYPE_CHECKING:
    from async_cache.targets import Address, Runtime

__all__ = ["get_many"]


def get_many(
    runtime: Runtime, calls: Sequence[tuple[tuple[Any, ...], Mapping[str, Any]]]
) -> list[Any]:
    """Return the values of several calls, in order; exceptions in the places of failed ones."""
    addresses = [runtime.address(args, kwargs) for args, kwargs in calls]
    unique = {address.entry: address for address in addresses}
    answers: dict[str, Any] = {}
    plain = _withoutspecial(runtime, unique, answers)
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
            answers[address.entry] = raised(partial(miss, runtime, address))
    return [answers[address.entry] for address in addresses]


def _withoutspecial(
    runtime: Runtime, unique: Mapping[str, Address], answers: dict[str, Any]
) -> list[Address]:
    if not (invalidation.unconfirmed or transactions.active() or not runtime.enabled):
        return list(unique.values())
    plain = []
    for entry, address in unique.items():
        other = special(runtime, address)
        if other is None:
            plain.append(address)
        else:
            answers[entry] = raised(other)
    return plain


def _sort_out(
    runtime: Runtime, addresses: Sequence[Address], found: Sequence[Raws], answers: dict[str, Any]
) -> list[Address]:
    """Answer what can be served; return the calls that are cold."""
    cold = []
    for address, raws in zip(addresses, found, strict=True):
        judged = judge(runtime, address, raws)
        if judged is None:
            if runtime.fetch_on_miss:
                cold.append(address)
            else:
                answers[address.entry] = raised(partial(miss, runtime, address))
            continue
        header, value, decision = judged
        if isinstance(value, Answered):
            answers[address.entry] = value.error
            continue
        limit = runtime.policy.max_stale
        if decision.refresh:
            if limit is not None and age(header, clock.now()) > limit:
                value = serve(runtime, address, header, raws, decision, value)
            else:
                renew(runtime, address, header.entry_id, raws)
        answers[address.entry] = raised(
            partial(processed, runtime, address, value, decision.status)
        )
    return cold


def _board_all(
    runtime: Runtime, cold: Sequence[Address]
) -> tuple[list[tuple[Attempt, Future[Any] | None]], list[Address]]:
    """Split cold calls into those this caller fetches and those it waits for."""
    boarded: list[tuple[Attempt, Future[Any] | None]] = []
    waiting: list[Address] = []
    for address in cold:
        flight, leads = board(runtime, address)
        if leads or flight is None:
            boarded.append((Attempt(address, new_token()), flight))
        else:
            waiting.append(address)
    return boarded, waiting


def _caught(runtime: Runtime, attempt: Attempt) -> Any:
    return raised(partial(answer, runtime, attempt, own=True))


def raised(call: Callable[[], Any]) -> Any:
    """Return what a call returns, or the exception it raises."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - it stands in the place of the value
        return error
