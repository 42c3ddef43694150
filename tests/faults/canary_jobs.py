"""Jobs and functions that handle secrets; the worker of the row "canaries" imports them."""

from __future__ import annotations

from typing import Any, Final

from async_cache import AsyncCacheJob

__all__ = [
    "ARGUMENT",
    "ERROR",
    "KEY",
    "VALUE",
    "Careless",
    "Keeper",
    "Refused",
    "careless",
    "keep",
]

VALUE: Final = "canary-in-a-value-7f3a"
ERROR: Final = "canary-in-an-error-91bc"
ARGUMENT: Final = "canary-in-an-argument-2d4e"
KEY: Final = "canary-in-a-key-c05d"


class Keeper(AsyncCacheJob[Any]):
    """Returns a secret for a secret; stale at once."""

    ttl = 0
    grace = 3600

    def fetch(self, *args: Any) -> Any:
        return {KEY: [VALUE, *args]}


class Careless(Keeper):
    """Says a secret when it fails."""

    def fetch(self, *args: Any) -> Any:
        raise LookupError(f"{ERROR} {args}")


class Refused(Keeper):
    """Returns what cannot be stored as JSON, under a secret key."""

    serializer = "json"

    def fetch(self, *args: Any) -> Any:
        return {KEY: {VALUE, ERROR}}


def keep(*args: Any, **kwargs: Any) -> dict[str, Any]:
    """Return a secret."""
    return {KEY: [VALUE]}


def careless(*args: Any, **kwargs: Any) -> None:
    """Say a secret and fail."""
    raise LookupError(ERROR)
