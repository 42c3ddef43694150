"""Publish what waits: claim the leases in one go, hand the won ones to their dispatchers.

The publisher's thread calls `Press.publish` with what has gathered; where a refresh runs in the
reader's own thread, the reader does. Nothing here waits, retries or starts a thread.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import Final, Protocol
from uuid import UUID, uuid4

from async_cache import clock, guards, owed, signals, vary
from async_cache.breaker import Breaker
from async_cache.dispatchers.base import Dispatcher, Refresh, RefreshRequest
from async_cache.exceptions import DispatchFailed, StoreUnavailable
from async_cache.leases import Phase, queued_seconds
from async_cache.messages import RefreshItem
from async_cache.signals import announce, error_name
from async_cache.stores.base import Claimed, Store
from async_cache.vary import Context

__all__ = ["LOST_GUARD", "MESSAGE_KEYS", "MESSAGE_LIFE", "Press", "Receipt", "Wish", "bundle"]

MESSAGE_KEYS: Final = 100
"""Calls in one message, at most."""

MESSAGE_LIFE: Final = 7200.0
"""Seconds for which a message may wait for a worker: much longer than the grace of its lease, so
that a slow queue still makes progress, and than the clocks of hosts differ, so that none seems
expired when it comes."""

LOST_GUARD: Final = 1.0
"""Seconds after which a read asks again, when another's message waited for a worker."""

FETCHING_GUARD: Final = 0.5
"""Seconds after which a read asks again, when another was fetching: it may have been killed."""


class Receipt(Protocol):
    """Where the sender of one wish learns what became of it."""

    def settle(self, won: bool, holder: bytes) -> None:
        """Take in who holds the lease now."""

    def fail(self, error: Exception) -> None:
        """Take in why the wish was not published."""


@dataclass(slots=True, eq=False)
class Wish:
    """One request on its way.

    Attributes:
        request: What a reader asked for.
        token: Names the claimant of the lease; empty until the first claim. It is kept when the
            claim got no answer, since that claim may have succeeded.
        receipt: Who waits for the outcome; such a wish gets a message of its own and no retry.
    """

    request: RefreshRequest
    token: bytes = b""
    receipt: Receipt | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What makes two wishes the same."""
        return self.request.runtime.alias, self.request.address.entry


def bundle(wishes: Sequence[Wish]) -> None:
    """Give every wish without a token one; those that fit into one message share it.

    Such are the calls of one job, with the same constructor arguments and under the same context,
    when the job can fetch many at once.
    """
    groups: defaultdict[tuple[int, object], list[Wish]] = defaultdict(list)
    for wish in wishes:
        if wish.token:
            continue
        runtime = wish.request.runtime
        if runtime.coalesces and wish.receipt is None:
            groups[id(runtime), wish.request.address.context].append(wish)
        else:
            wish.token = uuid4().bytes
    for group in groups.values():
        rest = iter(group)
        while chunk := list(islice(rest, MESSAGE_KEYS)):
            token = uuid4().bytes
            for wish in chunk:
                wish.token = token


class Press:
    """Publishes wishes, and remembers who does not answer.

    Attributes:
        breakers: By ``("store", alias)`` and ``("dispatcher", name)``.
    """

    def __init__(self) -> None:
        self.breakers: dict[tuple[str, str], Breaker] = {}
        self._down_since: dict[tuple[str, str], float] = {}

    def reset(self) -> None:
        """Forget who did not answer, as after a fork."""
        self.breakers.clear()
        self._down_since.clear()

    def retry_at(self, alias: str, dispatcher: str) -> float:
        """Return when these two may be tried: 0.0 while neither has failed."""
        latest = 0.0
        for name in (("store", alias), ("dispatcher", dispatcher)):
            breaker = self.breakers.get(name)
            if breaker is not None and breaker.retry_at > latest:
                latest = breaker.retry_at
        return latest

    def explain(self, alias: str, dispatcher: str) -> str:
        """Return what a caller is told while one of these two is left alone."""
        store = self.breakers.get(("store", alias))
        if store is not None and store.retry_at:
            return (
                f'The cache "{alias}" has just failed, so no lease can be taken. It is tried again '
                "in a second; see that its server runs and can be reached from here."
            )
        return (
            f'The dispatcher "{dispatcher}" has just failed. It is tried again in a second; see '
            "that its broker, or whatever takes its messages, runs and can be reached from here."
        )

    def publish(self, wishes: Sequence[Wish]) -> list[Wish]:
        """Claim the leases of these wishes and publish those that are won.

        Returns:
            The wishes to be tried again, in their order: their store or dispatcher did not answer.
        """
        bundle(wishes)
        groups: defaultdict[tuple[Store, Context], list[Wish]] = defaultdict(list)
        for wish in wishes:
            groups[wish.request.runtime.store, wish.request.address.context].append(wish)
        again: set[Wish] = set()
        for (store, context), group in groups.items():
            # The alias's key function may depend on it: the keys must be those of the reader.
            with ExitStack() as stack:
                try:
                    stack.enter_context(vary.activate(context))
                except Exception as error:  # noqa: BLE001 - announced
                    _announce_failed(group[0].request.runtime.dispatcher, group, error)
                    _refused(group, error)
                    continue
                again.update(self._publish_from(store, group))
        return [wish for wish in wishes if wish in again]

    def _publish_from(self, store: Store, wishes: Sequence[Wish]) -> list[Wish]:
        if not store.writable_now:
            error = StoreUnavailable(
                f'The cache "{store.alias}" takes part in this transaction, so nothing is leased.'
            )
            return _refused(wishes, error)
        try:
            answers = store.claim(
                [
                    wish.request.runtime.claim(wish.request.address, wish.token, Phase.QUEUED)
                    for wish in wishes
                ]
            )
        except StoreUnavailable as error:
            # Announced by the store. It may hold some of these leases for us all the same: under
            # the tokens that the wishes keep, the next claim wins them.
            self._failed(("store", store.alias))
            return _refused(wishes, error)
        self._succeeded(("store", store.alias))
        messages: defaultdict[bytes, list[Wish]] = defaultdict(list)
        for wish, claimed in zip(wishes, answers, strict=True):
            if claimed.won:
                _note_won(wish, claimed)
                messages[wish.token].append(wish)
            else:
                _note_lost(wish, claimed)
        unsent, again = self._dispatch(messages)
        _release(store, unsent)
        for wish in unsent:
            # A failed publish may have been delivered all the same: the next try is another one.
            wish.token = b""
        return again

    def _dispatch(self, messages: Mapping[bytes, list[Wish]]) -> tuple[list[Wish], list[Wish]]:
        """Hand over messages; return the wishes not handed over, and those to be tried again."""
        unsent: list[Wish] = []
        again: list[Wish] = []
        down: dict[str, DispatchFailed] = {}
        work = deque((group, UUID(bytes=token)) for token, group in messages.items())
        while work:
            group, task_id = work.popleft()
            dispatcher = group[0].request.runtime.dispatcher
            try:
                if dispatcher.name in down:
                    raise down[dispatcher.name]
                dispatcher.dispatch(_refresh(group, task_id))
            except DispatchFailed as error:
                if dispatcher.name not in down:
                    down[dispatcher.name] = error
                    self._failed(("dispatcher", dispatcher.name))
                _announce_failed(dispatcher, group, error)
                unsent += group
                again += _refused(group, error)
            except Exception as error:  # noqa: BLE001 - announced
                if len(group) > 1:
                    # One call of them may be what cannot travel, or together they are too large.
                    work.extend(([wish], uuid4()) for wish in group)
                    continue
                # A short guard is left: reads in quick succession would all fail alike.
                guards.shorten(group[0].request.address.entry, LOST_GUARD)
                _announce_failed(dispatcher, group, error)
                unsent += group
                _refused(group, error)
            else:
                self._succeeded(("dispatcher", dispatcher.name))
                _note_sent(dispatcher, group, task_id)
        return unsent, again

    def _failed(self, name: tuple[str, str]) -> None:
        now = clock.monotonic()
        self.breakers.setdefault(name, Breaker()).failed(now)
        self._down_since.setdefault(name, now)

    def _succeeded(self, name: tuple[str, str]) -> None:
        since = self._down_since.pop(name, None)
        if since is None:
            return
        self.breakers[name].succeeded()
        if name[0] == "dispatcher":
            away = clock.monotonic() - since
            announce(signals.dispatch_recovered, dispatcher=name[1], seconds=away)


def _refresh(group: Sequence[Wish], task_id: UUID) -> Refresh:
    first = group[0].request
    runtime = first.runtime
    now = clock.now()
    items = [
        RefreshItem(
            call=wish.request.address.call,
            digest=wish.request.address.digest,
            token=wish.token,
            entry_id=wish.request.entry_id,
        )
        for wish in group
    ]
    more = f" and {len(items) - 1} more" if len(items) > 1 else ""
    return Refresh(
        task_id=str(task_id),
        message=runtime.message(items, first.address.context, now, now + MESSAGE_LIFE),
        queue=runtime.queue,
        options=runtime.task_options,
        expires=MESSAGE_LIFE,
        fetch_timeout=runtime.policy.fetch_timeout,
        keys=len(items),
        summary=f"{runtime.name} {first.address.digest}{more}",
    )


def _note_won(wish: Wish, claimed: Claimed) -> None:
    runtime = wish.request.runtime
    seconds = queued_seconds(runtime.queued_grace, claimed.attempts)
    # A worker may begin at once and be killed: reads notice it soon after the end of its lease.
    guards.extend(wish.request.address.entry, min(seconds, runtime.policy.lease))
    if claimed.attempts:
        _tell(signals.refresh_unanswered, wish, attempts=claimed.attempts)


def _note_lost(wish: Wish, claimed: Claimed) -> None:
    if not claimed.full:
        fetching = claimed.holder is not None and claimed.holder.phase is Phase.FETCHING
        seconds = FETCHING_GUARD if fetching else LOST_GUARD
        guards.shorten(wish.request.address.entry, seconds)
        _tell(signals.refresh_coalesced, wish)
    if wish.receipt is not None:
        wish.receipt.settle(False, claimed.holder.token if claimed.holder else b"")


def _note_sent(dispatcher: Dispatcher, group: Sequence[Wish], task_id: UUID) -> None:
    for wish in group:
        if not dispatcher.inline:
            guards.note_sent(wish.request.address.entry)
        _tell(signals.refresh_dispatched, wish, dispatcher=dispatcher.name, task_id=str(task_id))
        if wish.receipt is not None:
            wish.receipt.settle(True, wish.token)


def _refused(wishes: Sequence[Wish], error: Exception) -> list[Wish]:
    """Tell those who wait for an answer; return the others."""
    for wish in wishes:
        if wish.receipt is not None:
            wish.receipt.fail(error)
    return [wish for wish in wishes if wish.receipt is None]


def _announce_failed(dispatcher: Dispatcher, group: Sequence[Wish], error: Exception) -> None:
    runtime = group[0].request.runtime
    announce(
        signals.dispatch_failed,
        sender=runtime.job_class,
        dispatcher=dispatcher.name,
        job=runtime.name,
        count=len(group),
        error=error,
        error_type=error_name(error.__cause__ or error),
    )


def _release(store: Store, wishes: Sequence[Wish]) -> None:
    if not wishes:
        return
    leases = [(w.request.address.lease, w.token, w.request.address.trace) for w in wishes]
    try:
        store.release(leases)
    except StoreUnavailable:  # announced by the store
        first = wishes[0].request
        owed.owe(store, leases, first.runtime.queued_grace, first.address.context)


def _tell(signal: signals.Announcement, wish: Wish, **payload: object) -> None:
    runtime = wish.request.runtime
    announce(
        signal,
        sender=runtime.job_class,
        job=runtime.name,
        key=wish.request.address.digest,
        **payload,
    )
