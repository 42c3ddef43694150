"""The read path: from arguments to a value.

`get` is the hot path: one round trip, no lock, no import, nothing written. Everything that is not
a hit leaves it for the functions below and for `cold`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import random
from typing import TYPE_CHECKING, Any, TypeAlias

from async_cache import clock, invalidation, publisher, transactions
from async_cache.cold import Answered, answer, direct, fly, processed, value_or
from async_cache.dispatchers.base import RefreshRequest
from async_cache.entry import MISSING, NEGATIVE, Header, Status, open_entry
from async_cache.exceptions import EntryRejected, StoreUnavailable
from async_cache.guards import guarded
from async_cache.policy import Decision, age, decide
from async_cache.refresh import NO_ENTRY, Purpose
from async_cache.serializers import load_value
from async_cache.serializers.negatives import load_negative

if TYPE_CHECKING:
    from async_cache.targets import Address, Runtime

__all__ = ["Raws", "get", "judge", "miss", "peek", "renew", "serve", "special"]

Raws: TypeAlias = Sequence[bytes | None]
"""What one read brings: the entry, then the stamps."""


def get(runtime: Runtime, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return the value of a call; see `AsyncCacheJob.get`."""
    address = runtime.address(args, kwargs)
    if invalidation.unconfirmed or transactions.active() or not runtime.enabled:
        other = special(runtime, address)
        if other is not None:
            return other()
    try:
        raws: Raws = runtime.store.read(address.handle)
        raw = raws[0]
        if raw is not None:
            header = open_entry(raw, address.opener)
            if header.meta != address.meta:
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
                    raise Answered(load_negative(raw, header, runtime.max_value_size))
                value = load_value(raw, header, runtime.max_value_size)
                if decision is not Decision.FRESH:
                    value = serve(runtime, address, header, raws, decision, value)
                if runtime.processes:
                    return runtime.job.process_result(value, address.call, decision.status)
                return value
    except EntryRejected as error:
        runtime.reject(address, error)
    except StoreUnavailable:
        pass  # announced by the store; the value is fetched directly below
    except Answered as answered:
        raise answered.error from None
    return miss(runtime, address)


def _reread(runtime: Runtime, address: Address, header: Header, raws: Raws) -> Raws:
    """Read again with the stamps of the tags that the entry names, and the first read did not."""
    tags = header.tags
    known = tags == address.tags
    address.learn(tags, header.meta)
    if known:
        return raws
    again = runtime.store.read(address.handle)
    # Another entry may have come meanwhile: the first is judged by the stamps in force now.
    return [raws[0], *again[1:]]


def serve(
    runtime: Runtime,
    address: Address,
    header: Header,
    raws: Raws,
    decision: Decision,
    value: Any,
) -> Any:
    """Serve a value whose refresh is due: at once, or after it when older than ``max_stale``."""
    limit = runtime.policy.max_stale
    if limit is not None and age(header, clock.now()) > limit:
        attempt, own = fly(runtime, address, Purpose.TOO_STALE, header.entry_id)
        return value_or(runtime, attempt, value, own=own)
    renew(runtime, address, header.entry_id, raws)
    return value


def renew(runtime: Runtime, address: Address, entry_id: bytes, raws: Raws) -> None:
    """Ask for a refresh, unless this process has lately asked for the same."""
    stamps = b"".join(stamp or b"" for stamp in raws[1:])
    if not guarded(address.entry, entry_id, stamps):
        publisher.submit(RefreshRequest(runtime, address, entry_id, stamps))


def special(runtime: Runtime, address: Address) -> Callable[[], Any] | None:
    """Return what answers in place of a plain read, or None when a plain read will do."""
    if not runtime.enabled:
        return lambda: direct(runtime, address)
    if transactions.active():
        held = transactions.held(address.entry)
        if isinstance(held, bytes):
            return lambda: processed(runtime, address, runtime.serializer.loads(held), Status.FRESH)
        if transactions.is_invalidated(address.scopes):
            return lambda: direct(runtime, address)
    if invalidation.unconfirmed and invalidation.reaches(address.scopes):
        # Gone, and the cache was not there to be told: what it holds must not be served.
        return lambda: direct(runtime, address)
    return None


def miss(runtime: Runtime, address: Address) -> Any:
    """Answer a call for which nothing servable is stored."""
    if not runtime.fetch_on_miss:
        renew(runtime, address, NO_ENTRY, ())
        return runtime.job.empty(*address.call.args, **address.call.kwargs)
    attempt, own = fly(runtime, address, Purpose.COLD)
    return answer(runtime, attempt, own=own)


def peek(runtime: Runtime, address: Address) -> Any:
    """Return the servable value or `MISSING`; fetch nothing, ask for nothing."""
    try:
        raws = runtime.store.read(address.handle)
        found = judge(runtime, address, raws)
    except StoreUnavailable:
        return MISSING
    if found is None or isinstance(found[1], Answered):
        return MISSING
    _, value, decision = found
    return processed(runtime, address, value, decision.status)


def judge(runtime: Runtime, address: Address, raws: Raws) -> tuple[Header, Any, Decision] | None:
    """Return header, value and decision of what was read; None for a miss.

    A negative answer comes as an `Answered` in the place of the value.
    """
    raw = raws[0]
    if raw is None:
        return None
    try:
        header = open_entry(raw, address.opener)
        if header.meta != address.meta:
            raws = _reread(runtime, address, header, raws)
        decision = decide(header, raws[1:], clock.now())
        if invalidation.unconfirmed:
            reached = invalidation.reaches(address.scopes)
            if reached is not None and decision.servable:
                decision = Decision.DELETED if reached else Decision.INVALIDATED
        if not decision.servable:
            return None
        if header.flags & NEGATIVE:
            return header, Answered(load_negative(raw, header)), decision
        return header, runtime.load(header, raw), decision
    except EntryRejected as error:
        runtime.reject(address, error)
        return None
