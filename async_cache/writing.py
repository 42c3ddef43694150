"""What a refresh writes: the entry, the record of a failure, a value that the caller has."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from async_cache import clock, flights, owed, signals
from async_cache.attempts import Attempt, State
from async_cache.context import extend_tags
from async_cache.effects import Io, Steps
from async_cache.entry import new_stamp
from async_cache.exceptions import StoreUnavailable
from async_cache.fetching import Fetched
from async_cache.policy import next_failure
from async_cache.sealing import sealed
from async_cache.stores.base import Commit, Outcome

if TYPE_CHECKING:
    from async_cache.addresses import Address
    from async_cache.targets import Runtime

__all__ = ["commit_all", "compose", "ensure_stamps", "record_failures", "release", "store_value"]


def compose(runtime: Runtime, attempt: Attempt, got: Fetched) -> Steps[tuple[Commit, int]]:
    """Return the commit of what was fetched, and its size in bytes.

    Raises:
        UnstorableValue: The value cannot be serialized, or is too large.
    """
    claimed = attempt.claimed
    assert claimed is not None
    address = attempt.address
    stamps = list(claimed.stamps)
    tags = extend_tags(address.static_tags, got.context)
    decided = tags[len(address.static_tags) :]
    if decided:
        # Known only since the fetch: the epoch, read before the fetch and again after the tags'
        # stamps, tells whether one of them was invalidated meanwhile.
        names = [runtime.tag_stamp(tag) for tag in decided]
        stamps += yield from ensure_stamps(runtime, names)
        (epoch,) = yield Io(runtime, "read", runtime.epoch_handle)
        attempt.born_stale = epoch != claimed.values[2]
        address.learn(tags)
    entry, life = sealed(runtime, attempt, got, b"".join(stamps), tags)
    attempt.raw = entry
    hard = list(zip(address.hard_stamps, claimed.stamps[:2], strict=True))
    commit = Commit(
        lease=address.lease,
        token=attempt.token,
        trace=address.trace,
        puts=((address.entry, entry, life),),
        expect=tuple(hard),
        extend=tuple((name, runtime.max_lifetime) for name in address.stamp_names(tags)),
        removes=(address.failure,),
        members=runtime.members,
        member=address.digest,
        max_members=runtime.max_keys or 0,
    )
    return commit, len(entry)


def commit_all(
    runtime: Runtime, commits: Sequence[tuple[Attempt, Commit, Fetched, int]]
) -> Steps[None]:
    """Write what was composed, and announce what became of it."""
    try:
        outcomes = yield Io(runtime, "commit", [commit for _, commit, _, _ in commits])
    except StoreUnavailable:
        # Announced by the store; the caller keeps its value. A cache that is there, and refused
        # the value alone, must not keep the next caller waiting for the leases' end.
        yield from release(runtime, [attempt for attempt, _, _, _ in commits])
        return
    for (attempt, _, got, size), outcome in zip(commits, outcomes, strict=True):
        attempt.stored = outcome
        if outcome is Outcome.COMMITTED:
            runtime.tell(
                signals.refresh_committed,
                attempt,
                seconds=got.seconds,
                size=size,
                stale=attempt.born_stale,
            )
        else:
            attempt.raw = None
            attempt.private = outcome in (Outcome.LOST, Outcome.OVERTAKEN)
            runtime.tell(signals.refresh_refused, attempt, reason=outcome.value)


def record_failures(runtime: Runtime, failed: Sequence[tuple[Attempt, Fetched]]) -> Steps[None]:
    """Write the back-off before the leases are released; what is stored is not touched."""
    now = clock.now()
    records = []
    for attempt, got in failed:
        assert attempt.error is not None
        name = signals.error_name(attempt.error)
        attempt.failure, life = next_failure(attempt.failure, name, now, random.random())
        records.append((attempt.address.failure, attempt.failure.encode(), life))
        runtime.tell(
            signals.refresh_failed,
            attempt,
            seconds=got.seconds,
            error=attempt.error,
            error_type=name,
            retry_after=attempt.failure.remaining(now),
        )
    try:
        yield Io(runtime, "put", records)
    except StoreUnavailable:
        return  # announced by the store; without the record the next fetch comes earlier


def release(runtime: Runtime, attempts: Sequence[Attempt]) -> Steps[None]:
    """Give the leases of these attempts back."""
    leases = [(one.address.lease, one.token, one.address.trace) for one in attempts]
    try:
        yield Io(runtime, "release", leases)
    except StoreUnavailable:
        # Announced by the store. All attempts of one refresh have one context.
        context = attempts[0].address.context if attempts else ()
        owed.owe(runtime.store, leases, runtime.policy.lease, context)


def ensure_stamps(runtime: Runtime, names: Sequence[str]) -> Steps[list[bytes]]:
    """Return the stamps in force, making those that are missing."""
    handle = runtime.store.prepare(names)
    found = yield Io(runtime, "read", handle)
    missing = [name for name, stamp in zip(names, found, strict=True) if stamp is None]
    if not missing:
        return list(found)
    yield Io(runtime, "put", [(name, new_stamp(), runtime.max_lifetime) for name in missing])
    # Another may have written them in the same moment: what is there now is what counts.
    found = yield Io(runtime, "read", handle)
    if None in found:
        raise StoreUnavailable("The cache loses stamps as they are written; is it full?")
    return list(found)


def store_value(runtime: Runtime, address: Address, value: Any) -> Steps[Outcome]:
    """Store a value that the caller has: `set`.

    The key's stamps are renewed with it, so a refresh that began before cannot overwrite it.
    """
    tags = address.static_tags
    fixed = [runtime.job_stamp, *(runtime.tag_stamp(tag) for tag in tags)]
    found = yield from ensure_stamps(runtime, fixed)
    hard, soft = new_stamp(), new_stamp()
    got = Fetched(value, None, clock.now(), 0.0)
    attempt = Attempt(address, b"")
    attempt.state, attempt.value = State.FETCHED, value
    stamps = b"".join((found[0], hard, soft, *found[1:]))
    entry, life = sealed(runtime, attempt, got, stamps, tags)
    commit = Commit(
        lease=None,
        token=b"",
        trace=address.trace,
        puts=(
            (address.hard, hard, runtime.max_lifetime),
            (address.soft, soft, runtime.max_lifetime),
            (address.entry, entry, life),
        ),
        expect=((runtime.job_stamp, found[0]),),
        extend=tuple((name, runtime.max_lifetime) for name in fixed),
        removes=(address.failure,),
        members=runtime.members,
        member=address.digest,
        max_members=runtime.max_keys or 0,
    )
    (outcome,) = yield Io(runtime, "commit", [commit])
    flights.end_lingering()
    if outcome is Outcome.FULL:
        runtime.tell(signals.call_uncached, attempt, max_keys=runtime.max_keys)
    address.learn(tags)
    result: Outcome = outcome
    return result
