"""The read path: from arguments to a value.

`get` is the hot path: one round trip, no lock, no import, nothing written. Everything that is not
a hit leaves it for the functions below and for `cold`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from random import random
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from async_cache import clock, invalidation, publisher, transactions
from async_cache.attempts import NO_ENTRY, Purpose
from async_cache.cold import Answered, answer, direct, fly, processed, value_or
from async_cache.dispatchers.base import RefreshRequest
from async_cache.entry import MISSING, NEGATIVE, Header, Status, open_entry
from async_cache.exceptions import EntryRejected, StoreUnavailable
from async_cache.guards import answered_since, guarded
from async_cache.policy import Decision, age, decide, distrusted
from async_cache.serializers import load_value
from async_cache.serializers.negatives import load_negative

if TYPE_CHECKING:
    from async_cache.addresses import Address
    from async_cache.targets import Runtime

__all__ = [
    "HARD",
    "Judged",
    "Raws",
    "get",
    "judge",
    "miss",
    "note_hit",
    "note_miss",
    "peek",
    "renew",
    "special",
    "too_stale",
    "unusual",
    "wish",
]

Raws: TypeAlias = Sequence[bytes | None]
"""What one read brings: the entry, then the stamps."""

HARD: Final = slice(1, 3)
"""Where the hard stamps are in it: the job's and the key's."""

Judged: TypeAlias = "tuple[Header, Any, Decision]"
"""What an entry comes to; a negative answer stands as an `Answered` in the place of the value."""


def get(runtime: Runtime, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return the value of a call; see `AsyncCacheJob.get`."""
    address = runtime.address(args, kwargs)
    if unusual(runtime):
        return _get_carefully(runtime, address)
    try:
        raws: Raws = runtime.store.read(address.handle)
        raw = raws[0]
        if raw is None:
            note_miss(runtime, address, failed=False)
            return miss(runtime, address, raws)
        header = open_entry(raw, address.opener)
        if header.meta != address.meta:
            raws = _reread(runtime, address, header, raws)
        now = clock.now()
        decision = decide(
            header,
            raws[1:],
            now,
            runtime.policy.early,
            runtime.policy.early_window,
            1.0 - random() if runtime.policy.early else 1.0,
        )
        if not decision.servable:
            note_miss(runtime, address, failed=False)
            return miss(runtime, address, raws)
        if header.flags & NEGATIVE:
            value: Any = Answered(load_negative(raw, header, runtime.max_value_size))
        else:
            value = load_value(raw, header, runtime.max_value_size)
    except (EntryRejected, StoreUnavailable) as error:
        if isinstance(error, EntryRejected):
            runtime.reject(address, error)
        failed = isinstance(error, StoreUnavailable)
        note_miss(runtime, address, failed)
        return miss(runtime, address, failed=failed)
    if decision is Decision.FRESH and not runtime.processes and type(value) is not Answered:
        tally = runtime.tally
        tally.fresh += 1
        tally.age += now - header.fetch_started
        if runtime.keep_warm:
            address.read_at, address.seen = now, header
        return value
    return _answer_with(runtime, address, (header, value, decision), raws)


def unusual(runtime: Runtime) -> bool:
    """Whether a plain read may not do: a transaction, an outage, a cache that is turned off."""
    return bool(invalidation.unconfirmed) or transactions.active() or not runtime.enabled


def _get_carefully(runtime: Runtime, address: Address) -> Any:
    other = special(runtime, address)
    if other is not None:
        return other()
    raws: Raws = (None,)
    try:
        raws = runtime.store.read(address.handle)
        judged = judge(runtime, address, raws)
        failed = False
    except StoreUnavailable:
        judged, failed = None, True
    # The entry may have brought tags that were not known before.
    other = special(runtime, address)
    if other is not None:
        return other()
    if judged is None:
        note_miss(runtime, address, failed)
        return miss(runtime, address, raws, failed=failed)
    return _answer_with(runtime, address, judged, raws)


def note_miss(runtime: Runtime, address: Address, failed: bool) -> None:
    """Note a read that found nothing servable, or that the cache did not answer."""
    if failed:
        runtime.tally.error += 1
    else:
        runtime.tally.miss += 1
    if runtime.keep_warm:
        address.read_at, address.seen = clock.now(), None


def note_hit(runtime: Runtime, address: Address, judged: Judged) -> None:
    """Note a read that found what can be served."""
    header, _, decision = judged
    now = clock.now()
    if decision.status is Status.FRESH:
        runtime.tally.fresh += 1
    else:
        runtime.tally.stale += 1
    runtime.tally.age += age(header, now)
    if runtime.keep_warm:
        address.read_at, address.seen = now, header


def _answer_with(runtime: Runtime, address: Address, judged: Judged, raws: Raws) -> Any:
    note_hit(runtime, address, judged)
    header, value, decision = judged
    if isinstance(value, Answered):
        raise value.error
    status = decision.status
    if decision.refresh:
        if too_stale(runtime, header):
            attempt, own = fly(
                runtime, address, Purpose.TOO_STALE, header.entry_id, seen=raws[HARD]
            )
            value, status = value_or(runtime, attempt, value, own=own)
        else:
            renew(runtime, address, header.entry_id, raws, judged)
    return processed(runtime, address, value, status)


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


def too_stale(runtime: Runtime, header: Header) -> bool:
    """Whether a value whose refresh is due is older than the job lets a reader have at once."""
    limit = runtime.policy.max_stale
    return limit is not None and age(header, clock.now()) > limit


def wish(
    runtime: Runtime,
    address: Address,
    entry_id: bytes,
    raws: Raws,
    judged: Judged | None = None,
) -> RefreshRequest | None:
    """Return the request for a refresh, unless this process has lately asked for the same.

    Where ``judged`` seems old though it came in answer to the last request, the clocks of processes
    differ: one request in the time of a lease will do.
    """
    stamps = b"".join(stamp or b"" for stamp in raws[1:])
    if guarded(address.entry, entry_id, stamps):
        return None
    if judged is not None:
        seconds = min(distrusted(judged[2], judged[0]), runtime.policy.lease)
        if answered_since(address.entry, entry_id, stamps, seconds):
            return None
    return RefreshRequest(runtime, address, entry_id, stamps)


def renew(
    runtime: Runtime,
    address: Address,
    entry_id: bytes,
    raws: Raws,
    judged: Judged | None = None,
) -> None:
    """Ask for a refresh, unless this process has lately asked for the same."""
    request = wish(runtime, address, entry_id, raws, judged)
    if request is not None:
        publisher.submit(request)


def special(runtime: Runtime, address: Address) -> partial[Any] | None:
    """Return what answers in place of a plain read, or None when a plain read will do.

    It is a call of `direct` or, for a value that this transaction holds, of another function.
    """
    if not runtime.enabled:
        return partial(direct, runtime, address)
    if transactions.active():
        held = transactions.held(address.entry)
        if isinstance(held, bytes):
            return partial(_held, runtime, address, held)
        if transactions.is_invalidated(address.scopes):
            return partial(direct, runtime, address)
    if invalidation.unconfirmed and invalidation.reaches(address.scopes):
        # Gone, and the cache was not there to be told: what it holds must not be served.
        return partial(direct, runtime, address)
    return None


def _held(runtime: Runtime, address: Address, data: bytes) -> Any:
    return processed(runtime, address, runtime.serializer.loads(data), Status.FRESH)


def miss(runtime: Runtime, address: Address, raws: Raws = (), *, failed: bool = False) -> Any:
    """Answer a call for which nothing servable is stored."""
    if not runtime.fetch_on_miss:
        renew(runtime, address, NO_ENTRY, raws)
        return runtime.job.empty(*address.call.args, **address.call.kwargs)
    attempt, own = fly(runtime, address, Purpose.COLD, seen=raws[HARD], failed=failed)
    return answer(runtime, attempt, own=own)


def peek(runtime: Runtime, address: Address) -> Any:
    """Return the servable value or `MISSING`; fetch nothing, ask for nothing."""
    found = None
    with suppress(StoreUnavailable):  # announced by the store
        found = judge(runtime, address, runtime.store.read(address.handle))
    if unusual(runtime):
        other = special(runtime, address)
        if other is not None:
            return MISSING if other.func is direct else other()
    if found is None or isinstance(found[1], Answered):
        return MISSING
    _, value, decision = found
    return processed(runtime, address, value, decision.status)


def judge(runtime: Runtime, address: Address, raws: Raws) -> Judged | None:
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
        policy = runtime.policy
        draw = 1.0 - random() if policy.early else 1.0
        decision = decide(header, raws[1:], clock.now(), policy.early, policy.early_window, draw)
        if invalidation.unconfirmed:
            reached = invalidation.reaches(address.scopes)
            if reached is not None and decision.servable:
                gone = reached or header.flags & NEGATIVE
                decision = Decision.DELETED if gone else Decision.INVALIDATED
        if not decision.servable:
            return None
        found = runtime.answer_of(header, raw)
        return header, Answered(found) if header.flags & NEGATIVE else found, decision
    except EntryRejected as error:
        runtime.reject(address, error)
        return None
