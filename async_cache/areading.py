"""The read path for coroutines."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async

from async_cache import clock, invalidation, publisher
from async_cache.cold import Answered, adirect, afly, answer, processed, value_or
from async_cache.dispatchers.base import RefreshRequest
from async_cache.entry import open_entry
from async_cache.exceptions import EntryRejected, StoreUnavailable
from async_cache.guards import guarded
from async_cache.many import get_many
from async_cache.policy import age
from async_cache.reading import Raws, get, judge
from async_cache.refresh import NO_ENTRY, Purpose

if TYPE_CHECKING:
    from async_cache.targets import Address, Runtime

__all__ = ["aget", "aget_many"]


async def aget(runtime: Runtime, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return the value of a call without blocking the event loop."""
    address = runtime.address(args, kwargs)
    if invalidation.unconfirmed or not runtime.enabled:
        return await adirect(runtime, address, lambda: get(runtime, args, kwargs))
    try:
        raws = await runtime.async_store.read(address.handle)
        if raws[0] is not None:
            header = open_entry(raws[0], address.opener)
            tags = header.tags if header.meta != address.meta else address.tags
            if tags != address.tags:
                address.learn(tags, header.meta)
                raws = [raws[0], *(await runtime.async_store.read(address.handle))[1:]]
        judged = judge(runtime, address, raws)
    except EntryRejected as error:
        runtime.reject(address, error)
        judged = None
    except StoreUnavailable:
        judged = None
    if judged is None:
        return await _amiss(runtime, address)
    header, value, decision = judged
    if isinstance(value, Answered):
        raise value.error
    if decision.refresh:
        limit = runtime.policy.max_stale
        if limit is not None and age(header, clock.now()) > limit:
            attempt, own = await afly(runtime, address, Purpose.TOO_STALE, header.entry_id)
            try:
                value = value_or(runtime, attempt, value, own=own)
            except Answered as answered:
                raise answered.error from None
        else:
            await _arenew(runtime, address, header.entry_id, raws)
    return processed(runtime, address, value, decision.status)


async def _arenew(runtime: Runtime, address: Address, entry_id: bytes, raws: Raws) -> None:
    stamps = b"".join(stamp or b"" for stamp in raws[1:])
    if not guarded(address.entry, entry_id, stamps):
        await publisher.asubmit_many([RefreshRequest(runtime, address, entry_id, stamps)])


async def _amiss(runtime: Runtime, address: Address) -> Any:
    if not runtime.fetch_on_miss:
        await _arenew(runtime, address, NO_ENTRY, ())
        return runtime.job.empty(*address.call.args, **address.call.kwargs)
    attempt, own = await afly(runtime, address, Purpose.COLD, NO_ENTRY)
    return answer(runtime, attempt, own=own)


async def aget_many(
    runtime: Runtime, calls: Sequence[tuple[tuple[Any, ...], Mapping[str, Any]]]
) -> list[Any]:
    """Return the values of several calls without blocking the event loop."""
    if runtime.fetches_async:

        async def one(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            try:
                return await aget(runtime, args, kwargs)
            except Exception as error:  # noqa: BLE001 - it stands in the place of the value
                return error

        return list(await asyncio.gather(*(one(args, kwargs) for args, kwargs in calls)))
    values: list[Any] = await sync_to_async(get_many, thread_sensitive=True)(runtime, calls)
    return values
