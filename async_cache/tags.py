"""Invalidate by tag: every entry that carries it, of any job, in O(1)."""

from __future__ import annotations

from asgiref.sync import sync_to_async

from async_cache import invalidation
from async_cache.conf import get_settings
from async_cache.context import checked_tag
from async_cache.invalidation import Change
from async_cache.keys import tag_epoch, tag_stamp

__all__ = ["ainvalidate_tags", "invalidate_tags"]


def invalidate_tags(*tags: str, cache: str | None = None) -> None:
    """Make every value with one of these tags stale; in a transaction, on commit.

    Args:
        *tags: Names of tags; they are global to a cache alias.
        cache: The alias; by default the one that ``ASYNC_CACHE["CACHE"]`` names.

    Raises:
        StoreUnavailable: The cache did not take it; it holds in this process and is retried.
    """
    names = tuple(dict.fromkeys(map(checked_tag, tags)))
    if not names:
        return
    settings = get_settings()
    prefix = settings.key_prefix
    # The epoch first: a fetch that reads a tag's old stamp then finds the epoch moved.
    stamps = (tag_epoch(prefix), *(tag_stamp(prefix, name) for name in names))
    invalidation.request(
        Change(cache or settings.cache, stamps, (), hard=False, scope="tag", tags=names)
    )


async def ainvalidate_tags(*tags: str, cache: str | None = None) -> None:
    """Do what `invalidate_tags` does without blocking the event loop."""
    await sync_to_async(invalidate_tags, thread_sensitive=True)(*tags, cache=cache)
