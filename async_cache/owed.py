"""Leases that could not be given back: the cache did not answer, so nobody knows who holds them.

A claim whose answer was lost may have won; a release that was lost leaves a lease behind. Either
would keep others waiting until the lease ends. A thread gives them back once the cache answers.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from async_cache import clock, threads, vary
from async_cache.exceptions import StoreUnavailable
from async_cache.signals import error_name, logger
from async_cache.vary import Context

if TYPE_CHECKING:
    from async_cache.stores.base import Store

__all__ = ["MAX_OWED", "Owed", "give_back", "owe", "reset"]

MAX_OWED: Final = 1000
"""Leases kept for another try. Past it later ones end by themselves: while the cache is away most
claims are not even sent, and those at the beginning may have been."""

RETRY_SECONDS: Final = 0.25

Owed: TypeAlias = "tuple[str, bytes, str]"
"""A lease, the token it was claimed with, and the key of its trace."""


class _Debt(NamedTuple):
    store: Store
    context: Context
    lease: Owed
    ends: float


_debts: Final[list[_Debt]] = []
_changed = threading.Condition(threading.Lock())
_thread: threading.Thread | None = None


def owe(store: Store, leases: Sequence[Owed], seconds: float, context: Context = ()) -> None:
    """Give leases back as soon as the cache answers.

    Args:
        store: Where they are.
        leases: They may be ours, another's or nobody's: a release compares tokens.
        seconds: After which they have ended by themselves.
        context: What the job varies by: the alias's key function may depend on it.
    """
    global _thread
    ends = clock.monotonic() + seconds
    with _changed:
        room = max(0, MAX_OWED - len(_debts))
        _debts.extend(_Debt(store, context, lease, ends) for lease in leases[:room])
        if _debts and (_thread is None or not _thread.is_alive()):
            # Where no thread can be had they end by themselves.
            _thread = threads.start("leases", _run)
            if _thread is None:
                _debts.clear()


def give_back() -> bool:
    """Try once to give back what is owed; tell whether nothing is owed any more."""
    now = clock.monotonic()
    with _changed:
        groups: defaultdict[tuple[Store, Context], list[_Debt]] = defaultdict(list)
        for debt in _debts:
            groups[debt.store, debt.context].append(debt)
    over: set[int] = set()
    for (store, context), debts in groups.items():
        left = [debt for debt in debts if debt.ends > now]
        over.update(id(debt) for debt in debts if debt.ends <= now)
        try:
            with vary.activate(context):
                store.release([debt.lease for debt in left])
        except StoreUnavailable:
            continue  # announced by the store
        except Exception as error:  # noqa: BLE001 - logged
            # What the job varies by is not to be had any more: the others must not wait for it.
            logger.error("%d leases are left to end: %s.", len(left), error_name(error))
        over.update(map(id, left))
    with _changed:
        _debts[:] = [debt for debt in _debts if id(debt) not in over]
        return not _debts


def _run() -> None:
    global _thread
    while True:
        with _changed:
            if not _debts:
                _thread = None
                return
            _changed.wait(RETRY_SECONDS)
        give_back()
        threads.close_connections()


def reset() -> None:
    """Forget what is owed, as after a fork: the parent gives its own leases back."""
    global _changed, _thread
    _changed = threading.Condition(threading.Lock())
    _thread = None
    _debts.clear()


threads.after_fork(reset)
