"""What a worker that gets forged messages knows, and what it has done."""

from __future__ import annotations

from typing import Final

from django.conf import settings

from async_cache import AsyncCacheJob

__all__ = ["Declared", "called", "fetched", "note"]

_fetched: Final[list[str]] = []
_called: Final[list[str]] = []


class Declared(AsyncCacheJob[str]):
    """Stale at once, so that each refresh fetches."""

    ttl = 0
    grace = 3600
    refresh_calls = (("declared",),)

    def fetch(self, key: str) -> str:
        _fetched.append(key)
        return f"{key} {len(_fetched)}"


# Only in the workers that want it: elsewhere it would be in every schedule.
Declared.refresh_every = getattr(settings, "FORGED_EVERY", None)


def fetched() -> list[str]:
    """Return the keys that were fetched."""
    return sorted(set(_fetched))


def note(name: str) -> int:
    """Note that a call was made."""
    _called.append(name)
    return len(_called)


def called() -> list[str]:
    """Return which calls were made."""
    return sorted(set(_called))
