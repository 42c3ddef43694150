"""Values fetched in a transaction: held for its rest, stored after its commit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asgiref.sync import sync_to_async

from async_cache import publisher, transactions
from async_cache.attempts import NO_ENTRY, Attempt, State, new_token
from async_cache.dispatchers.base import RefreshRequest
from async_cache.effects import Io, Steps, run
from async_cache.exceptions import EntryRejected, StoreUnavailable, UnstorableValue
from async_cache.fetching import Fetched
from async_cache.stores.base import Claimed, Outcome, Phase
from async_cache.writing import commit_all, compose, release

if TYPE_CHECKING:
    from async_cache.targets import Runtime

__all__ = ["Hold", "commit_held"]


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
            yield from release(runtime, [attempt])
            return False
        entry = claimed.values[0]
        if entry is not None:
            try:
                newer = runtime.open(attempt.address, entry).fetch_started >= got.started
            except EntryRejected:
                newer = False
            if newer:
                yield from release(runtime, [attempt])
                return False
        commit, size = yield from compose(runtime, attempt, got)
    except BaseException:
        yield from release(runtime, [attempt])
        raise
    yield from commit_all(runtime, [(attempt, commit, got, size)])
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
