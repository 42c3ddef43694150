"""The protocol of a refresh: elect, re-check, fetch, commit, announce.

Generators that decide and yield effects (`effects`): this file knows no store, no thread and no
event loop, so the tests can run it under every order of events. One algorithm serves a cold reader,
a worker with a message and an explicit ``refresh()``; they differ in their `Purpose`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from asgiref.sync import sync_to_async

from async_cache import clock, fetching, publisher, signals, transactions
from async_cache.context import NOT_MODIFIED, FetchContext, extend_tags
from async_cache.dispatchers.base import RefreshRequest
from async_cache.effects import Io, Pause, Steps, run
from async_cache.entry import ENTRY_ID_SIZE, MISSING, Header, Status, new_stamp
from async_cache.exceptions import (
    EntryRejected,
    FetchUnavailable,
    RecursiveFetch,
    StoreUnavailable,
    UnstorableValue,
)
from async_cache.fetching import Fetch, Fetched
from async_cache.policy import Decision, Failure, age, decide, next_failure
from async_cache.stores.base import Claimed, Commit, Outcome, Phase

if TYPE_CHECKING:
    from async_cache.targets import Address, Runtime

__all__ = [
    "NO_ENTRY",
    "Attempt",
    "Hold",
    "Purpose",
    "State",
    "commit_held",
    "ensure_stamps",
    "fetch_directly",
    "new_token",
    "obtain",
    "refresh",
    "settles",
    "store_value",
    "unavailable",
]

NO_ENTRY: Final = b"\0" * ENTRY_ID_SIZE
"""The id of the entry to be replaced, where there is none."""

_FIRST_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 0.1


class Purpose(Enum):
    """Why a refresh runs, hence what makes it unnecessary."""

    COLD = "cold"  # a caller has nothing: any servable entry will do
    TOO_STALE = "too stale"  # a caller has only what is older than max_stale
    RENEW = "renew"  # a message: another's fresh entry will do
    FORCE = "force"  # refresh(): nothing but a fetch will do


class State(Enum):
    """How far an attempt has come."""

    PENDING = "pending"
    LOST = "lost"  # another is fetching
    FOUND = "found"  # another has stored what will do
    FETCHED = "fetched"
    NEGATIVE = "negative"  # the fetch answered "does not exist"
    FAILED = "failed"
    BACKED_OFF = "backed off"  # the last fetch failed, and the next is not due
    UNAVAILABLE = "unavailable"  # waited long enough for another's fetch


@dataclass(slots=True, eq=False)
class Attempt:
    """One call on its way through a refresh.

    Attributes:
        address: The call.
        token: Names this attempt as the owner of the lease.
        replaces: Id of the entry that was found stale.
        state: How far it has come.
        claimed: The answer to the claim.
        header: Header of the entry found, or replaced.
        raw: The sealed entry that was found or committed, for others who wait in this process.
        value: What was fetched.
        error: What the fetch raised: a failure, or a negative answer.
        failure: The record of failed fetches.
        stored: What became of the commit; None when there was none.
        born_stale: Whether one of its tags was invalidated during the fetch.
        private: Whether the answer is for this caller only: it was read in a transaction, or was
            deleted or overwritten meanwhile.
        status: Fresh, unless what was found is stale.
    """

    address: Address
    token: bytes
    replaces: bytes = NO_ENTRY
    state: State = State.PENDING
    claimed: Claimed | None = None
    header: Header | None = None
    raw: bytes | None = None
    value: Any = MISSING
    error: Exception | None = None
    failure: Failure | None = None
    stored: Outcome | None = None
    born_stale: bool = False
    private: bool = False
    status: Status = Status.FRESH


def settles(
    purpose: Purpose,
    decision: Decision,
    header: Header,
    replaces: bytes,
    max_stale: float | None,
    now: float,
) -> bool:
    """Say whether an entry found after the election makes the fetch unnecessary."""
    if purpose is Purpose.FORCE or not decision.servable:
        return False
    if purpose is Purpose.COLD:
        return True
    if purpose is Purpose.TOO_STALE:
        return max_stale is None or age(header, now) <= max_stale
    return decision is Decision.FRESH and header.entry_id != replaces


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
    except StoreUnavailable:
        if purpose is Purpose.RENEW:
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
            if claimed.full and attempt.state is State.LOST:
                full.append(attempt)
            elif claimed.won:
                (leased if attempt.state is State.PENDING else idle).append(attempt)
    except BaseException as error:
        yield from _release(runtime, [one for one in attempts if one.claimed and one.claimed.won])
        if not isinstance(error, StoreUnavailable) or purpose is Purpose.RENEW:
            raise
        open_ones = [one for one in attempts if one.state in (State.PENDING, State.LOST)]
        yield from fetch_directly(runtime, open_ones)
        return
    if idle:
        yield from _release(runtime, idle)
    for start in range(0, len(leased), runtime.chunk):
        try:
            yield from _fetch_and_commit(runtime, leased[start : start + runtime.chunk])
        except BaseException:
            yield from _release(runtime, leased[start:])
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
    except EntryRejected:
        return  # replaced by this refresh; a reader has announced it, or never saw it
    tags = header.tags
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
        runtime.tell(signals.refresh_started, attempt)
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
                commit, size = yield from _compose(runtime, attempt, got)
            except StoreUnavailable:
                held.append(attempt)  # announced by the store; the caller keeps its value
            except Exception as error:  # noqa: BLE001 - recorded as a failed refresh
                attempt.state, attempt.error, attempt.value = State.FAILED, error, MISSING
                failed.append((attempt, got))
            else:
                commits.append((attempt, commit, got, size))
    if failed:
        yield from _record_failures(runtime, failed)
    if held or failed:
        yield from _release(runtime, [*held, *(attempt for attempt, _ in failed)])
    if commits:
        yield from _commit(runtime, commits)


def _compose(runtime: Runtime, attempt: Attempt, got: Fetched) -> Steps[tuple[Commit, int]]:
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
    entry, life = runtime.compose(attempt, got, b"".join(stamps), tags)
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


def _commit(
    runtime: Runtime, commits: Sequence[tuple[Attempt, Commit, Fetched, int]]
) -> Steps[None]:
    try:
        outcomes = yield Io(runtime, "commit", [commit for _, commit, _, _ in commits])
    except StoreUnavailable:
        # Announced by the store; the caller keeps its value. A cache that is there, and refused
        # the value alone, must not keep the next caller waiting for the leases' end.
        yield from _release(runtime, [attempt for attempt, _, _, _ in commits])
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


def _record_failures(runtime: Runtime, failed: Sequence[tuple[Attempt, Fetched]]) -> Steps[None]:
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


def _release(runtime: Runtime, attempts: Sequence[Attempt]) -> Steps[None]:
    leases = [(one.address.lease, one.token, one.address.trace) for one in attempts]
    try:
        yield Io(runtime, "release", leases)
    except StoreUnavailable:
        return  # announced by the store; the leases end by themselves


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
    entry, life = runtime.compose(attempt, got, stamps, tags)
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
    if outcome is Outcome.FULL:
        runtime.tell(signals.call_uncached, attempt, max_keys=runtime.max_keys)
    address.learn(tags)
    result: Outcome = outcome
    return result


def commit_held(runtime: Runtime, attempt: Attempt, got: Fetched, before: Claimed) -> Steps[bool]:
    """Store a value fetched in a transaction that has now committed.

    Args:
        runtime: The job.
        attempt: The call, with a token of its own.
        got: What the fetch gave.
        before: What the claim found before the fetch.

    Returns:
        Whether it was stored; False asks for a refresh instead: another may have stored a later
        one, holds the lease, or a stamp has moved.
    """
    (claimed,) = yield Io(
        runtime, "claim", [runtime.claim(attempt.address, attempt.token, Phase.FETCHING)]
    )
    if not claimed.won:
        return False
    attempt.claimed = claimed
    try:
        # The third value is the epoch of tags, read where the fetch may decide some.
        tagged = got.context is not None and got.context.tags
        moved = tagged and claimed.values[2] != before.values[2]
        if moved or tuple(claimed.stamps) != tuple(before.stamps):
            yield from _release(runtime, [attempt])
            return False
        entry = claimed.values[0]
        if entry is not None:
            try:
                newer = runtime.open(attempt.address, entry).fetch_started >= got.started
            except EntryRejected:
                newer = False
            if newer:
                yield from _release(runtime, [attempt])
                return False
        commit, size = yield from _compose(runtime, attempt, got)
    except BaseException:
        yield from _release(runtime, [attempt])
        raise
    yield from _commit(runtime, [(attempt, commit, got, size)])
    return attempt.stored is Outcome.COMMITTED


class Hold:
    """Effect: keep a value for the rest of the transaction it was fetched in, and store it after.

    On commit it is stored when the transaction was READ COMMITTED and lease and stamps allow it;
    otherwise a refresh is queued: a snapshot may have read what another has since invalidated.
    """

    __slots__ = ("attempt", "before", "got", "runtime")

    def __init__(
        self, runtime: Runtime, attempt: Attempt, got: Fetched, before: Claimed | None
    ) -> None:
        self.runtime = runtime
        self.attempt = attempt
        self.got = got
        self.before = before

    def perform(self) -> None:
        """Hold it in this thread's transaction."""
        transaction = self.got.transaction
        if transaction is None or not transaction.hooks:
            return
        address = self.attempt.address
        if self.attempt.state is State.FETCHED:
            try:
                data = self.runtime.serializer.dumps(
                    self.attempt.value, self.runtime.max_value_size
                )
            except UnstorableValue:
                return  # the refresh of another caller will report it
            if not transactions.is_invalidated(address.scopes):
                transactions.hold(address.entry, data, address.scopes)
        storable = self.before is not None and transaction.read_committed()
        transaction.on_commit(lambda: self._after_commit(storable))

    async def aperform(self) -> None:
        """Hold it in the transaction of Django's own thread."""
        await sync_to_async(self.perform, thread_sensitive=True)()

    def _after_commit(self, storable: bool) -> None:
        runtime, address = self.runtime, self.attempt.address
        if storable and self.before is not None:
            again = Attempt(address, new_token())
            again.state, again.value, again.error = (
                self.attempt.state,
                self.attempt.value,
                self.attempt.error,
            )
            try:
                if run(commit_held(runtime, again, self.got, self.before)):
                    return
            except (StoreUnavailable, UnstorableValue):
                return  # announced; the next read fetches
        publisher.submit(RefreshRequest(runtime, address, NO_ENTRY))


def new_token() -> bytes:
    """Return a token that names one attempt; as a UUID it names the task."""
    return uuid4().bytes


def unavailable(runtime: Runtime, attempt: Attempt, now: float) -> FetchUnavailable:
    """Return the error for a caller who can be given no value now."""
    failure = attempt.failure
    if failure is not None and attempt.state is State.BACKED_OFF:
        left = failure.remaining(now)
        return FetchUnavailable(
            f"{runtime.name}: the last fetch raised {failure.error_type} "
            f"({failure.count} in a row); the next is tried in {left:.1f} s.",
            error_type=failure.error_type,
            retry_after=left,
        )
    return FetchUnavailable(
        f"{runtime.name}: another process is fetching the value, for longer than this call waits "
        f"({runtime.policy.wait:g} s). Raise the job's `wait`, or override `empty()`.",
    )
