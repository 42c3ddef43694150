"""The protocol of a refresh: elect, re-check, fetch, commit, announce.

Generators that decide and yield effects (`effects`): this file knows no store, no thread and no
event loop, so the tests can run it under every order of events. One algorithm serves a cold reader,
a worker with a message and an explicit ``refresh()``; they differ in their `Purpose`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from async_cache import clock, fetching, signals
from async_cache.attempts import Attempt, Purpose, State, settles
from async_cache.context import NOT_MODIFIED, FetchContext
from async_cache.effects import Io, Pause, Steps
from async_cache.entry import MISSING
from async_cache.exceptions import EntryRejected, RecursiveFetch, StoreUnavailable
from async_cache.fetching import Fetch, Fetched
from async_cache.holding import Hold
from async_cache.policy import Failure, decide
from async_cache.stores.base import Commit, Phase
from async_cache.writing import commit_all, compose, record_failures, release

if TYPE_CHECKING:
    from async_cache.targets import Runtime

__all__ = ["fetch_directly", "obtain", "refresh"]

_FIRST_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 0.1


def refresh(runtime: Runtime, attempts: Sequence[Attempt], purpose: Purpose) -> Steps[None]:
    """Try once to settle each attempt; those whose lease is another's are left `State.LOST`.

    Raises:
        StoreUnavailable: The store did not answer and the purpose is to renew. Callers who want a
            value get it from a direct fetch instead.
    """
    if not runtime.store.writable_now:
        yield from fetch_directly(runtime, attempts)
        return
    try:
        answers = yield Io(
            runtime,
            "claim",
            [runtime.claim(attempt.address, attempt.token, Phase.FETCHING) for attempt in attempts],
        )
    except BaseException as error:
        # The claim may have taken effect, and its answer been lost: with the cache, or with an
        # event loop that ends.
        yield from release(runtime, attempts)
        if not isinstance(error, StoreUnavailable) or purpose is Purpose.RENEW:
            raise
        yield from fetch_directly(runtime, attempts)
        return
    idle: list[Attempt] = []
    leased: list[Attempt] = []
    full: list[Attempt] = []
    try:
        for attempt, claimed in zip(attempts, answers, strict=True):
            attempt.claimed = claimed
            yield from _examine(runtime, attempt, purpose)
            if claimed.full and attempt.state is State.LOST and purpose is not Purpose.RENEW:
                full.append(attempt)
            elif claimed.won:
                (leased if attempt.state is State.PENDING else idle).append(attempt)
    except BaseException as error:
        yield from release(runtime, [one for one in attempts if one.claimed and one.claimed.won])
        if not isinstance(error, StoreUnavailable) or purpose is Purpose.RENEW:
            raise
        open_ones = [one for one in attempts if one.state in (State.PENDING, State.LOST)]
        yield from fetch_directly(runtime, open_ones)
        return
    if idle:
        yield from release(runtime, idle)
    for start in range(0, len(leased), runtime.chunk):
        try:
            yield from _fetch_and_commit(runtime, leased[start : start + runtime.chunk])
        except BaseException:
            yield from release(runtime, leased[start:])
            raise
    if full:
        for attempt in full:
            runtime.tell(signals.call_uncached, attempt, max_keys=runtime.max_keys)
        yield from fetch_directly(runtime, full)


def _examine(runtime: Runtime, attempt: Attempt, purpose: Purpose) -> Steps[None]:
    """Look at what the claim found beside the lease."""
    claimed = attempt.claimed
    assert claimed is not None
    now = clock.now()
    if not claimed.won:
        attempt.state = State.LOST
        return
    entry, failure = claimed.values[:2]
    attempt.failure = Failure.decode(failure)
    if entry is not None:
        yield from _examine_entry(runtime, attempt, entry, claimed.stamps, purpose, now)
    backing_off = attempt.failure is not None and attempt.failure.remaining(now) > 0
    if backing_off and attempt.state is State.PENDING and purpose is not Purpose.FORCE:
        attempt.state = State.BACKED_OFF


def _examine_entry(
    runtime: Runtime,
    attempt: Attempt,
    entry: bytes,
    stamps: Sequence[bytes | None],
    purpose: Purpose,
    now: float,
) -> Steps[None]:
    address = attempt.address
    try:
        header = runtime.open(address, entry)
        tags = header.tags
    except EntryRejected:
        return  # replaced by this refresh; a reader has announced it, or never saw it
    if tags != address.static_tags:
        # The fetch decided these tags from its value: their stamps cost a read of their own.
        address.learn(tags)
        raws = yield Io(runtime, "read", address.handle)
        if raws[0] != entry:
            return
        stamps = raws[1:]
    decision = decide(header, stamps, now)
    attempt.header, attempt.raw = header, entry
    if settles(purpose, decision, header, attempt.replaces, runtime.policy.max_stale, now):
        try:
            runtime.answer_of(header, entry)
        except EntryRejected:
            return  # its seal opens, its value does not: a model was migrated, a class is gone
        attempt.state, attempt.status = State.FOUND, decision.status


def fetch_directly(runtime: Runtime, attempts: Sequence[Attempt]) -> Steps[None]:
    """Fetch without a lease and store nothing."""
    for start in range(0, len(attempts), runtime.chunk):
        chunk = attempts[start : start + runtime.chunk]
        contexts = [FetchContext() if runtime.asks_context else None for _ in chunk]
        fetched = yield Fetch(runtime, chunk, contexts, leased=False)
        for attempt, got in zip(chunk, fetched, strict=True):
            _take(runtime, attempt, got)
            if got.transaction is not None and attempt.state is State.FETCHED and _storable(got):
                yield Hold(runtime, attempt, got, None)


def _storable(got: Fetched) -> bool:
    return got.context is None or got.context.stored


def _take(runtime: Runtime, attempt: Attempt, got: Fetched) -> None:
    """Note on the attempt what its fetch gave."""
    attempt.private = got.transaction is not None
    if got.value is NOT_MODIFIED:
        stale = MISSING if got.context is None else got.context.stale
        if stale is MISSING:
            attempt.state, attempt.error = (
                State.FAILED,
                TypeError(
                    f"{runtime.name}: fetch returned NOT_MODIFIED where there is no stale value. "
                    "Ask the source conditionally only when ctx.stale is not MISSING."
                ),
            )
        else:
            attempt.state, attempt.value = State.FETCHED, stale
            if got.context is not None and attempt.header is not None:
                # Without a new value the fetch cannot decide them anew.
                got.context.add_tags(*attempt.header.tags)
    elif got.error is None:
        attempt.state, attempt.value = State.FETCHED, got.value
    elif isinstance(got.error, runtime.negative):
        attempt.state, attempt.error = State.NEGATIVE, got.error
    else:
        attempt.state, attempt.error = State.FAILED, got.error


def _fetch_and_commit(runtime: Runtime, attempts: Sequence[Attempt]) -> Steps[None]:
    """Fetch under the leases just won; store what came, give every lease back."""
    contexts = [runtime.fetch_context(attempt) for attempt in attempts]
    for attempt in attempts:
        runtime.tell(signals.refresh_started, attempt, queued=attempt.queued)
    fetched = yield Fetch(runtime, attempts, contexts, leased=True)
    commits: list[tuple[Attempt, Commit, Fetched, int]] = []
    failed: list[tuple[Attempt, Fetched]] = []
    held: list[Attempt] = []
    for attempt, got in zip(attempts, fetched, strict=True):
        _take(runtime, attempt, got)
        if attempt.state is State.FAILED:
            failed.append((attempt, got))
        elif not _storable(got):
            held.append(attempt)
        elif got.transaction is not None:
            assert attempt.claimed is not None
            yield Hold(runtime, attempt, got, attempt.claimed)
            held.append(attempt)
        else:
            try:
                commit, size = yield from compose(runtime, attempt, got)
            except StoreUnavailable:
                held.append(attempt)  # announced by the store; the caller keeps its value
            except Exception as error:  # noqa: BLE001 - recorded as a failed refresh
                attempt.state, attempt.error, attempt.value = State.FAILED, error, MISSING
                failed.append((attempt, got))
            else:
                commits.append((attempt, commit, got, size))
    if failed:
        yield from record_failures(runtime, failed)
    if held or failed:
        yield from release(runtime, [*held, *(attempt for attempt, _ in failed)])
    if commits:
        yield from commit_all(runtime, commits)


def obtain(
    runtime: Runtime, attempts: Sequence[Attempt], purpose: Purpose, wait: float
) -> Steps[None]:
    """Settle every attempt for a caller who needs values, waiting for others' fetches.

    Args:
        runtime: The job.
        attempts: One for each call.
        purpose: Not `Purpose.RENEW`.
        wait: Longest wait for others, in seconds.
    """
    inside = fetching.being_fetched()
    for attempt in attempts:
        if attempt.address.entry in inside:
            raise RecursiveFetch(
                f"{runtime.name}: the fetch asked for its own key. Call fetch() itself, or peek()."
            )
    deadline = clock.monotonic() + wait
    pause = _FIRST_PAUSE
    pending = list(attempts)
    while True:
        yield from refresh(runtime, pending, purpose)
        pending = [attempt for attempt in pending if attempt.state is State.LOST]
        if not pending:
            return
        if inside:
            # Who holds a lease never waits for another's: two fetches could wait for each other.
            yield from fetch_directly(runtime, pending)
            return
        left = deadline - clock.monotonic()
        if left <= 0:
            for attempt in pending:
                attempt.state = State.UNAVAILABLE
            return
        yield Pause(min(pause, left))
        pause = min(pause * 1.5, _LONGEST_PAUSE)
        for attempt in pending:
            attempt.state = State.PENDING
