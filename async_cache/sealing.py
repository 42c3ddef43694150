"""Make the entry of what was fetched: its times, its flags, its payload, its seal."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from async_cache.attempts import Attempt
from async_cache.entry import BORN_STALE, NEGATIVE, new_entry_id, new_header, seal
from async_cache.exceptions import UnstorableValue
from async_cache.fetching import Fetched
from async_cache.policy import expiry
from async_cache.serializers import dump_value
from async_cache.serializers.negatives import dump_negative

if TYPE_CHECKING:
    from async_cache.targets import Runtime

__all__ = ["sealed"]


def sealed(
    runtime: Runtime, attempt: Attempt, got: Fetched, stamps: bytes, tags: tuple[str, ...]
) -> tuple[bytes, float]:
    """Return the sealed entry of what was fetched, and for how many seconds to keep it.

    Raises:
        UnstorableValue: It cannot be serialized, or is larger than ``MAX_VALUE_SIZE``.
    """
    policy = runtime.policy
    context = got.context
    flags = BORN_STALE if attempt.born_stale else 0
    if got.error is not None:
        flags |= NEGATIVE
        fresh_until = dead_at = got.started + policy.negative_ttl
    else:
        ttl = (
            runtime.ttl_of(attempt.value)
            if context is None
            else context.ttl_or(runtime.ttl_of(attempt.value))
        )
        cut = random.random() * policy.jitter if policy.jitter else 0.0
        fresh_until, dead_at = expiry(got.started, ttl, policy.grace, cut, policy.max_lifetime)
    if got.error is not None:
        packed = dump_negative(got.error, limit=runtime.max_value_size)
    else:
        try:
            packed = dump_value(attempt.value, runtime.serializer, limit=runtime.max_value_size)
        except UnstorableValue as error:
            raise UnstorableValue(f"{runtime.name}: {error}") from error
    header = new_header(
        entry_id=new_entry_id(),
        codec=packed.codec,
        flags=flags | packed.flags,
        fetch_started=got.started,
        fresh_until=fresh_until,
        dead_at=dead_at,
        fetch_seconds=got.seconds,
        stamps=stamps,
        tags=tags,
        etag=context.etag if context else None,
        last_modified=context.last_modified if context else None,
        codec_name=packed.codec_name,
    )
    entry = seal(header, packed.data, runtime.sealed_key(attempt.address.entry), runtime.ring)
    return entry, dead_at - got.started
