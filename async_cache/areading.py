"""The read path for coroutines."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async

from async_cache import publisher
from async_cache.attempts import NO_ENTRY, Purpose
from async_cache.cold import (
    Answered,
    adirect,
    afly,
    answer,
    direct,
    processed,
    shielded,
    value_or,
)
from async_cache.effects import arun
from async_cache.entry import open_entry
from async_cache.exceptions import EntryRejected, StoreUnavailable
from async_cache.many import (
    Sorted,
    Wanted,
    addresses_of,
    fly_many,
    in_order,
    landed,
    look_up,
    raised,
    sort_out,
)
from async_cache.reading import (
    HARD,
    Judged,
    Raws,
    judge,
    note_hit,
    note_miss,
    special,
    too_stale,
    unusual,
    wish,
)

if TYPE_CHECKING:
    from async_cache.addresses import Address
    from async_cache.targets import Runtime

__all__ = ["aget", "aget_many"]


async def aget(runtime: Runtime, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return the value of a call without blocking the event loop."""
    address = runtime.address(args, kwargs)
    careful = unusual(runtime)
    if careful and (other := special(runtime, address)) is not None:
        return await _aspecial(runtime, address, other)
    raws: Raws = (None,)
    judged, failed = None, False
    try:
        raws = await _aread(runtime, address)
        judged = judge(runtime, address, raws)
    except EntryRejected as error:
        runtime.reject(address, error)
    except StoreUnavailable:
        failed = True  # announced by the store; the value is fetched directly below
    if careful and (other := special(runtime, address)) is not None:
        # The entry has brought tags that were not known before.
        return await _aspecial(runtime, address, other)
    if judged is None:
        note_miss(runtime, address, failed)
        return await _amiss(runtime, address, raws, failed=failed)
    note_hit(runtime, address, judged)
    header, value, decision = judged
    if isinstance(value, Answered):
        raise value.error
    if decision.refresh:
        if too_stale(runtime, header):
            late = Wanted(address, header.entry_id, value, raws[HARD])
            return await _alate(runtime, late)
        await _arenew(runtime, address, header.entry_id, raws, judged)
    return processed(runtime, address, value, decision.status)


async def _aread(runtime: Runtime, address: Address) -> Raws:
    """Read an entry, its stamps and those of its tags; mostly in one round trip."""
    raws: Raws = await runtime.async_store.read(address.handle)
    if _names_others(address, raws):
        raws = [raws[0], *(await runtime.async_store.read(address.handle))[1:]]
    return raws


async def _aread_many(runtime: Runtime, addresses: Sequence[Address]) -> Sequence[Raws]:
    """Do what `_aread` does for several calls."""
    found: list[Raws] = list(
        await runtime.async_store.read_many([address.handle for address in addresses])
    )
    late = []
    for index, (address, raws) in enumerate(zip(addresses, found, strict=True)):
        with suppress(EntryRejected):  # met again, and announced, where it is judged
            if _names_others(address, raws):
                late.append(index)
    if late:
        again = await runtime.async_store.read_many([addresses[index].handle for index in late])
        for index, raws in zip(late, again, strict=True):
            found[index] = [found[index][0], *raws[1:]]
    return found


def _names_others(address: Address, raws: Raws) -> bool:
    """Learn the tags that an entry names; tell whether they are others than those just read."""
    raw = raws[0]
    if raw is None:
        return False
    header = open_entry(raw, address.opener)
    if header.meta == address.meta:
        return False
    tags = header.tags
    known = tags == address.tags
    address.learn(tags, header.meta)
    return not known


async def _aspecial(runtime: Runtime, address: Address, other: partial[Any]) -> Any:
    return await adirect(runtime, address) if other.func is direct else other()


async def _arenew(
    runtime: Runtime,
    address: Address,
    entry_id: bytes,
    raws: Raws,
    judged: Judged | None = None,
) -> None:
    request = wish(runtime, address, entry_id, raws, judged)
    if request is not None:
        await publisher.asubmit_many([request])


async def _amiss(
    runtime: Runtime, address: Address, raws: Raws = (), *, failed: bool = False
) -> Any:
    if not runtime.fetch_on_miss:
        await _arenew(runtime, address, NO_ENTRY, raws)
        return runtime.job.empty(*address.call.args, **address.call.kwargs)
    attempt, own = await afly(runtime, address, Purpose.COLD, seen=raws[HARD], failed=failed)
    return answer(runtime, attempt, own=own)


async def aget_many(
    runtime: Runtime, calls: Sequence[tuple[tuple[Any, ...], Mapping[str, Any]]]
) -> list[Any]:
    """Return the values of several calls without blocking the event loop."""
    if not runtime.fetches_async:
        # The wait for fetches is here: one of them may need the thread.
        addresses, result = await sync_to_async(look_up, thread_sensitive=True)(runtime, calls)
        for wanted, purpose in result.wanted():
            flown = shielded(arun(fly_many(runtime, wanted, purpose, result.answers)))
            for address, stale, call in await flown:
                result.answers[address.entry] = raised(
                    partial(landed, runtime, address, stale, call)
                )
        return in_order(addresses, result.answers)
    addresses = addresses_of(runtime, calls)
    unique = {one.entry: one for one in addresses if not isinstance(one, Exception)}
    result = Sorted()
    plain = []
    works: dict[str, Coroutine[Any, Any, Any]] = {}
    for address in unique.values():
        other = special(runtime, address) if unusual(runtime) else None
        if other is None:
            plain.append(address)
        else:
            works[address.entry] = _aspecial(runtime, address, other)
    found: Sequence[Raws] | None = []
    if plain:
        try:
            found = await _aread_many(runtime, plain)
        except StoreUnavailable:
            found = None  # announced by the store; fetched directly below
    sort_out(runtime, plain, found, result)
    await publisher.asubmit_many(result.requests)
    for one in result.cold:
        works[one.address.entry] = _amiss(
            runtime, one.address, (None, *one.seen), failed=found is None
        )
    for one in result.late:
        works[one.address.entry] = _alate(runtime, one)
    # They are shielded from each other: each failure stands in its own place.
    done = await asyncio.gather(*works.values(), return_exceptions=True)
    return in_order(addresses, result.answers | dict(zip(works, done, strict=True)))


async def _alate(runtime: Runtime, one: Wanted) -> Any:
    attempt, own = await afly(runtime, one.address, Purpose.TOO_STALE, one.replaces, seen=one.seen)
    value, status = value_or(runtime, attempt, one.stale, own=own)
    return processed(runtime, one.address, value, status)
