"""Jobs of the fault suite; its workers import them from here."""

from __future__ import annotations

import itertools
import os
from typing import Final

from async_cache import AsyncCacheJob

__all__ = ["AlwaysStale", "fetched"]

fetched: Final[list[str]] = []
"""Keys fetched in this process, in order."""

_numbers = itertools.count(1)


class AlwaysStale(AsyncCacheJob[str]):
    """Stale at once and servable for long: each read asks for a refresh."""

    ttl = 0
    grace = 3600
    lease = 2.0
    fetch_timeout = 5.0

    def fetch(self, key: str) -> str:
        fetched.append(key)
        return f"{key} {next(_numbers)} {os.getpid()}"
