"""Make scopes stale or gone: at once, or when the transaction around it commits.

A change is a few stamps written blind. One that the cache does not take binds this process at once
(its readers look at `unconfirmed`), is tried again every second, and is reported to the caller.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from async_cache import clock, flights, threads, transactions, vary
from async_cache.conf import get_settings
from async_cache.entry import new_stamp
from async_cache.exceptions import StoreUnavailable
from async_cache.signals import announce, error_name, logger, scope_invalidated
from async_cache.stores.registry import get_store
from async_cache.vary import Context

__all__ = ["Change", "apply", "request", "reset", "unconfirmed"]

MAX_UNCONFIRMED: Final = 1000
"""Changes kept for another try; past it the oldest is given up, with an error in the log."""

RETRY_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Change:
    """One invalidation.

    Attributes:
        alias: The cache.
        stamps: Keys of the stamps to renew, in this order.
        removes: Keys to drop after that.
        hard: Whether what is reached is gone, rather than stale.
        scope: ``"job"``, ``"key"`` or ``"tag"``.
        sender: The job's class, or None.
        job: The job's name, or an empty string.
        key: The call's digest, or an empty string.
        tags: The tags.
        context: What the job varies by: the alias's key function may depend on it.
    """

    alias: str
    stamps: tuple[str, ...]
    removes: tuple[str, ...]
    hard: bool
    scope: str
    sender: type | None = None
    job: str = ""
    key: str = ""
    tags: tuple[str, ...] = ()
    context: Context = ()


unconfirmed: Final[dict[str, bool]] = {}
"""Stamps that could not be renewed yet, each with whether it is hard. Empty but for outages."""

_waiting: list[Change] = []
_changed = threading.Condition(threading.Lock())
_thread: threading.Thread | None = None
_retry_at = 0.0


def request(change: Change) -> None:
    """Apply a change: now, or in a transaction on its commit.

    Raises:
        StoreUnavailable: The cache did not take it now; it holds in this process and is retried.
    """
    transaction = transactions.current()
    if transaction is None:
        apply(change)
        return
    if not transaction.hooks:
        # Autocommit is off by hand on one connection: nobody tells of its commit.
        apply(change)
    transactions.note_invalidated(change.stamps)
    transaction.on_any_commit(lambda: _apply_after_commit(change))


def apply(change: Change) -> None:
    """Apply a change now.

    Raises:
        StoreUnavailable: The cache did not take it; it holds in this process and is retried.
    """
    try:
        _write(change)
    except StoreUnavailable:
        _keep(change)
        raise
    finally:
        flights.end_lingering()
    _told(change)


def _apply_after_commit(change: Change) -> None:
    # The transaction is committed: an exception could undo nothing, and the store announces it.
    try:
        apply(change)
    except StoreUnavailable as error:
        logger.warning(
            "An invalidation of %s waits for the cache: %s.",
            change.job or "tags",
            error_name(error),
        )


def _write(change: Change) -> None:
    store = get_store(change.alias)
    life = get_settings().max_lifetime
    with vary.activate(change.context):
        store.put([(name, new_stamp(), life) for name in change.stamps])
        if change.removes:
            store.remove(change.removes)


def _told(change: Change) -> None:
    announce(
        scope_invalidated,
        sender=change.sender,
        scope=change.scope,
        hard=change.hard,
        job=change.job,
        key=change.key,
        tags=change.tags,
    )


def _keep(change: Change) -> None:
    global _thread
    with _changed:
        if change in _waiting:
            _waiting.remove(change)  # the same again must not push out others
        if len(_waiting) >= MAX_UNCONFIRMED:
            lost = _waiting.pop(0)
            logger.error(
                "The cache is away and %d invalidations wait; one of %s is given up.",
                MAX_UNCONFIRMED,
                lost.job or "tags",
            )
        _waiting.append(change)
        _recount()
        if _thread is None or not _thread.is_alive():
            _thread = threads.start("invalidations", _retry)


def _recount() -> None:
    found: dict[str, bool] = {}
    for change in _waiting:
        for name in change.stamps:
            found[name] = change.hard or found.get(name, False)
    # Readers look at this dict without the lock: it is never seen half empty.
    unconfirmed.update(found)
    for name in [name for name in unconfirmed if name not in found]:
        del unconfirmed[name]


def _retry() -> None:
    while True:
        with _changed:
            if not _waiting:
                return
            _changed.wait(RETRY_SECONDS)
        _write_waiting()
        threads.close_connections()


def _retry_here() -> None:
    """Do what the thread does, where none can be had: in a reader, once a second."""
    global _retry_at
    with _changed:
        now = clock.monotonic()
        if _thread is not None or now < _retry_at:
            return
        _retry_at = now + RETRY_SECONDS
    _write_waiting()


def _write_waiting() -> None:
    with _changed:
        batch = list(_waiting)
    ended: list[Change] = []
    done: list[Change] = []
    for change in batch:
        try:
            _write(change)
        except StoreUnavailable:
            break
        except Exception as error:  # noqa: BLE001 - logged
            # What it varies by is not to be had any more: the others must not wait for it.
            logger.error(
                "An invalidation of %s is given up: %s.", change.job or "tags", error_name(error)
            )
        else:
            done.append(change)
        ended.append(change)
    with _changed:
        # By identity: an equal one that came after the write was not written.
        over = set(map(id, ended))
        _waiting[:] = [change for change in _waiting if id(change) not in over]
        _recount()
    for change in done:
        _told(change)


def reaches(names: Iterable[str]) -> bool | None:
    """Tell what the unconfirmed changes do to an entry under these stamps.

    Returns:
        True when it is gone, False when it is stale, None when they do not reach it.
    """
    if _thread is None:
        _retry_here()
    hit = [unconfirmed[name] for name in names if name in unconfirmed]
    return any(hit) if hit else None


def reset() -> None:
    """Forget all that waits, as after a fork: the parent retries its own."""
    global _changed, _thread
    _changed = threading.Condition(threading.Lock())
    _thread = None
    _waiting.clear()
    unconfirmed.clear()


threads.after_fork(reset)
