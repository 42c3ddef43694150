"""What `set`, `invalidate`, `delete` and `clear` change: now, or when the transaction commits."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from async_cache import invalidation, transactions, vary
from async_cache.effects import run
from async_cache.exceptions import StoreUnavailable
from async_cache.invalidation import Change
from async_cache.signals import error_name, logger
from async_cache.writing import store_value

if TYPE_CHECKING:
    from async_cache.addresses import Address
    from async_cache.targets import Runtime

__all__ = ["clear", "delete", "invalidate", "set_value"]


def set_value(runtime: Runtime, address: Address, value: Any) -> None:
    """Store a value that the caller has.

    Raises:
        UnstorableValue: It cannot be stored.
        StoreUnavailable: The cache does not answer, or the transaction takes no more hooks.
    """
    transaction = transactions.current()
    if transaction is None or not transaction.hooks:
        run(store_value(runtime, address, value))
        return
    data = runtime.serializer.dumps(value, runtime.max_value_size)
    if not transaction.on_commit(partial(_set_after_commit, runtime, address, data)):
        raise StoreUnavailable(
            f"{runtime.name}: the value cannot be stored with this transaction, which is over "
            "or has too many hooks. Call set() after it."
        )
    transactions.hold(address.entry, data, address.scopes)


def _set_after_commit(runtime: Runtime, address: Address, data: bytes) -> None:
    # The transaction is committed: an exception could undo nothing.
    try:
        run(store_value(runtime, address, runtime.serializer.loads(data)))
    except StoreUnavailable as error:
        logger.warning(
            "A value of %s was set in a transaction, and the cache did not take it: %s.",
            runtime.name,
            error_name(error),
        )


def invalidate(runtime: Runtime, address: Address) -> None:
    """Make a call's value stale."""
    _change(runtime, address, (address.soft,), (address.failure,), hard=False)


def delete(runtime: Runtime, address: Address) -> None:
    """Delete a call's value."""
    _change(runtime, address, (address.hard,), (address.entry, address.failure), hard=True)


def _change(
    runtime: Runtime,
    address: Address,
    stamps: tuple[str, ...],
    removes: tuple[str, ...],
    *,
    hard: bool,
) -> None:
    invalidation.request(
        Change(
            runtime.alias,
            stamps,
            removes,
            hard=hard,
            scope="key",
            sender=runtime.job_class,
            job=runtime.name,
            key=address.digest,
            context=address.context,
        )
    )


def clear(runtime: Runtime) -> None:
    """Delete every value of a job, of every version and constructor argument."""
    removes = (runtime.members,) if runtime.members else ()
    invalidation.request(
        Change(
            runtime.alias,
            (runtime.job_stamp,),
            removes,
            hard=True,
            scope="job",
            sender=runtime.job_class,
            job=runtime.name,
            context=vary.read(runtime.vary),
        )
    )
