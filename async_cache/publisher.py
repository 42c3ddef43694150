"""Put refreshes on their way: what a stale read calls, and what ``refresh_later`` calls.

A stale read asks `guarded` and, when that says no, calls `submit`, which queues and returns. Where
a refresh runs in the reader's own thread (immediate, eager Celery) it runs before `submit` returns.
"""

from __future__ import annotations

import atexit
import threading
from collections import deque
from collections.abc import Sequence

from asgiref.sync import sync_to_async

from async_cache import guards, threads, transactions
from async_cache.conf import get_settings
from async_cache.dispatchers.base import RefreshRequest
from async_cache.exceptions import DispatchFailed
from async_cache.guards import guarded
from async_cache.outbox import Outbox
from async_cache.press import LOST_GUARD, Press, Wish
from async_cache.signals import announce, dispatch_failed, error_name

__all__ = [
    "apublish_now",
    "asubmit_many",
    "drain",
    "guarded",
    "publish_now",
    "submit",
    "submit_many",
]

_press = Press()
_outbox = Outbox(_press)
_inline = threading.local()


def submit(request: RefreshRequest) -> bool:
    """Ask for a refresh and set the guard; wait for nothing, raise nothing.

    Returns:
        False when it was dropped: the queue is full, or the dispatcher cannot be used. A later read
        asks again.
    """
    return submit_many((request,)) == 1


def submit_many(requests: Sequence[RefreshRequest]) -> int:
    """Ask for several refreshes at once, so that those of one job travel together.

    Returns:
        How many of them are on their way.
    """
    queued: list[RefreshRequest] = []
    inline: list[RefreshRequest] = []
    for request in requests:
        runtime, address = request.runtime, request.address
        guards.guard(address.entry, request.entry_id, request.stamps, runtime.queued_grace)
        try:
            (inline if runtime.dispatcher.inline else queued).append(request)
        except Exception as error:  # noqa: BLE001 - announced
            # A dispatcher that is set up wrongly is no reason to fail a read.
            _announce_unusable(request, error)
    taken = _outbox.put(queued) if queued else 0
    return taken + (_publish_inline(inline) if inline else 0)


async def asubmit_many(requests: Sequence[RefreshRequest]) -> int:
    """Do what `submit_many` does; refreshes that run at once do so in Django's own thread."""
    if any(map(_runs_here, requests)):
        taken: int = await sync_to_async(submit_many, thread_sensitive=True)(requests)
        return taken
    return submit_many(requests)


def _runs_here(request: RefreshRequest) -> bool:
    try:
        return request.runtime.dispatcher.inline
    except Exception:  # noqa: BLE001 - `submit_many` meets it again and announces it
        return False


def publish_now(request: RefreshRequest, token: bytes) -> tuple[bool, bytes]:
    """Publish one refresh in a message of its own, and wait for that.

    Args:
        request: What to refresh.
        token: 16 random bytes to claim the lease with; as a UUID they are the task's id.

    Returns:
        Whether the lease was won, and the token of who holds it; empty when it went free.

    Raises:
        DispatchFailed: The dispatcher did not take it within ``PUBLISH_TIMEOUT``.
        StoreUnavailable: The cache did not answer.
    """
    ticket = _Ticket()
    wish = Wish(request, token, ticket)
    dispatcher = request.runtime.dispatcher
    if not dispatcher.inline:
        # What is imported and read only once does not count as waiting for the broker.
        dispatcher.prepare()
        if _outbox.put_first(wish):
            seconds = get_settings().publish_timeout
            if not ticket.wait(seconds):
                _outbox.withdraw(wish)
                raise DispatchFailed(
                    f"The refresh of {request.runtime.name} was not published within the "
                    f'{seconds:g} s of ASYNC_CACHE["PUBLISH_TIMEOUT"]: the cache '
                    f'"{request.runtime.alias}" or the broker of the dispatcher '
                    f'"{dispatcher.name}" is slow. See that both run and can be reached from here, '
                    "or raise the setting."
                )
            return ticket.answer()
    _press.publish([wish])
    return ticket.answer()


async def apublish_now(request: RefreshRequest, token: bytes) -> tuple[bool, bytes]:
    """Do what `publish_now` does without blocking the event loop."""
    inline = request.runtime.dispatcher.inline
    answer: tuple[bool, bytes] = await sync_to_async(publish_now, thread_sensitive=inline)(
        request, token
    )
    return answer


def drain(seconds: float) -> None:
    """Publish what waits, for so many seconds at most, and take nothing more."""
    _outbox.drain(seconds)


class _Ticket:
    """The receipt of a wish whose sender waits."""

    __slots__ = ("_done", "_error", "_holder", "_won")

    def __init__(self) -> None:
        self._done = threading.Event()
        self._error: Exception | None = None
        self._won = False
        self._holder = b""

    def settle(self, won: bool, holder: bytes) -> None:
        self._won, self._holder = won, holder
        self._done.set()

    def fail(self, error: Exception) -> None:
        self._error = error
        self._done.set()

    def wait(self, seconds: float) -> bool:
        return self._done.wait(seconds)

    def answer(self) -> tuple[bool, bytes]:
        if self._error is not None:
            raise self._error
        return self._won, self._holder


def _publish_inline(requests: Sequence[RefreshRequest]) -> int:
    """Publish requests whose refresh runs in this thread, now.

    A refresh may read other stale values, whose refreshes run in this thread too: after this one,
    not inside it, so that no chain of them exhausts the stack.
    """
    pending: deque[Wish] | None = getattr(_inline, "pending", None)
    if pending is not None:
        room = max(0, get_settings().queue_size - len(pending))
        pending.extend(map(Wish, requests[:room]))
        for request in requests[room:]:
            guards.forget(request.address.entry)
        return min(room, len(requests))
    pending = _inline.pending = deque(map(Wish, requests))
    try:
        while pending:
            batch = list(pending)
            pending.clear()
            for wish in _press.publish(batch):
                if not _after_commit(wish.request):
                    guards.forget(wish.request.address.entry)
    finally:
        _inline.__dict__.pop("pending", None)
    return len(requests)


def _after_commit(request: RefreshRequest) -> bool:
    """Ask again after the transaction, where it is what keeps a lease from being taken."""
    if request.runtime.store.writable_now:
        return False
    transaction = transactions.current()
    if transaction is None or not transaction.hooks:
        return False
    # A short guard: reads in this transaction ask once, and after a rollback soon again.
    guards.shorten(request.address.entry, LOST_GUARD)
    return transaction.on_commit(lambda: submit(request))


def _announce_unusable(request: RefreshRequest, error: Exception) -> None:
    runtime = request.runtime
    announce(
        dispatch_failed,
        sender=runtime.job_class,
        dispatcher=getattr(runtime, "dispatcher_name", ""),
        job=runtime.name,
        count=1,
        error=error,
        error_type=error_name(error),
    )


def _reset() -> None:
    global _inline
    _inline = threading.local()
    _press.reset()
    _outbox.reset()


threads.after_fork(_reset)
atexit.register(_outbox.drain)
