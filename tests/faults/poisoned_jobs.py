"""Jobs whose entries are poisoned, in a process of their own."""

from __future__ import annotations

from async_cache import AsyncCacheJob

__all__ = ["Texts", "Values"]


class Values(AsyncCacheJob[str]):
    """Kept as pickle."""

    ttl = 600
    jitter = 0
    dispatcher = "immediate"

    def fetch(self, number: int) -> str:
        return f"fetched {number}"


class Texts(Values):
    """Kept as JSON."""

    serializer = "json"
