"""Renew the leases of running fetches, so that a slow fetch is not started twice.

One thread a process renews every lease at a third of its length. It stops after the fetch's limit:
a fetch that hangs loses its lease and another may begin.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from async_cache import clock, threads, vary
from async_cache.exceptions import StoreUnavailable
from async_cache.signals import error_name
from async_cache.vary import Context

if TYPE_CHECKING:
    from async_cache.stores.base import Store

__all__ = ["MAX_HOLDINGS", "Holding", "holding"]

logger = logging.getLogger("async_cache")

MAX_HOLDINGS: Final = 10_000
"""Fetches whose leases are renewed; one more runs within the first length of its lease."""

# What falls due within this part of its interval is renewed in the same round trip.
_SLACK: Final = 0.1
_RETRY: Final = 0.5


class Holding:
    """Leases held during one fetch.

    Attributes:
        lost: Names of the leases that turned out to be another's.
        renewing: Whether a thread renews them; else they end after their first length.
    """

    __slots__ = ("context", "due", "leases", "lost", "renewing", "seconds", "store", "until")

    def __init__(
        self,
        store: Store,
        leases: Sequence[tuple[str, bytes]],
        seconds: float,
        limit: float,
        context: Context = (),
    ) -> None:
        now = clock.monotonic()
        self.store = store
        self.context = context
        self.leases = list(leases)
        self.seconds = seconds
        self.until = now + limit
        self.due = now + seconds / 3
        self.lost: set[str] = set()
        self.renewing = False

    def note(self, answers: Sequence[bool], now: float) -> None:
        """Take in the store's answers to a renewal of `leases`, in order."""
        pairs = list(zip(self.leases, answers, strict=True))
        self.lost.update(name for (name, _), held in pairs if not held)
        self.leases = [lease for lease, held in pairs if held]
        self.due = now + self.seconds / 3


class _Heart:
    """The thread and what it has to renew."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start afresh, as after a fork: the parent's leases are renewed by the parent."""
        self._changed = threading.Condition(threading.Lock())
        self._holdings: dict[int, Holding] = {}
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self._wakes_at = float("inf")

    def add(self, one: Holding) -> int | None:
        """Renew these leases from now on; None when that cannot be done."""
        with self._changed:
            if len(self._holdings) >= MAX_HOLDINGS:
                return None
            if self._thread is None or not self._thread.is_alive():
                self._thread = threads.start("heartbeat", self._run)
                if self._thread is None:
                    return None
            number = next(self._numbers)
            self._holdings[number] = one
            if one.due < self._wakes_at:
                self._changed.notify()
            return number

    def drop(self, number: int | None) -> None:
        """Renew these leases no more."""
        with self._changed:
            if number is not None:
                self._holdings.pop(number, None)

    def _run(self) -> None:
        while True:
            due = self._wait()
            groups: defaultdict[tuple[Store, Context], list[Holding]] = defaultdict(list)
            for one in due:
                groups[one.store, one.context].append(one)
            for (store, context), holdings in groups.items():
                _renew(store, context, holdings)
            threads.close_connections()

    def _wait(self) -> list[Holding]:
        """Wait until some leases are due, and return these."""
        with self._changed:
            while True:
                now = clock.monotonic()
                live = [one for one in self._holdings.values() if one.leases and one.until > now]
                due = [one for one in live if one.due <= now + one.seconds / 3 * _SLACK]
                if due:
                    return due
                self._wakes_at = min((one.due for one in live), default=float("inf"))
                self._changed.wait(self._wakes_at - now if live else None)


def _renew(store: Store, context: Context, holdings: Sequence[Holding]) -> None:
    asked = [(one, list(one.leases)) for one in holdings]
    try:
        with vary.activate(context):
            answers = store.renew(
                [(name, token, one.seconds) for one, leases in asked for name, token in leases]
            )
    except Exception as error:  # noqa: BLE001 - logged
        # A store that does not answer announces that itself; anything else must not end the
        # thread that all other leases depend on.
        if not isinstance(error, StoreUnavailable):
            logger.error("Leases could not be renewed: %s.", error_name(error))
        now = clock.monotonic()
        for one in holdings:
            one.due = now + min(one.seconds / 3, _RETRY)
        return
    now = clock.monotonic()
    rest = iter(answers)
    for one, leases in asked:
        one.note(list(itertools.islice(rest, len(leases))), now)


_heart = _Heart()
threads.after_fork(_heart.reset)


@contextmanager
def holding(
    store: Store,
    leases: Sequence[tuple[str, bytes]],
    seconds: float,
    limit: float,
    context: Context = (),
) -> Iterator[Holding]:
    """Keep fetching leases alive while the block runs.

    Args:
        store: Where the leases are.
        leases: ``(name, token)`` of each.
        seconds: Their length; they are renewed at a third of it.
        limit: Seconds after which they are renewed no more, whether the block has ended or not.
        context: What is in force for the fetch: the alias's key function may depend on it.

    Yields:
        What is known of the leases.
    """
    one = Holding(store, leases, seconds, limit, context)
    number = _heart.add(one)
    one.renewing = number is not None
    try:
        yield one
    finally:
        _heart.drop(number)
