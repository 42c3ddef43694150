"""Jobs and values that are measured."""

from __future__ import annotations

import pickle
from datetime import date
from decimal import Decimal
from typing import Any

from async_cache import AsyncCacheJob
from async_cache.dispatchers.base import Dispatcher, Refresh

__all__ = ["VALUES", "Expired", "Many", "Silent", "Value", "rows"]


class Silent(Dispatcher):
    """A worker that takes every message and never answers."""

    name = "silent"

    def dispatch(self, refresh: Refresh) -> None:
        """Do nothing."""


def rows(size: int) -> list[dict[str, Any]]:
    """Return rows of a table whose pickle has about so many bytes."""
    found: list[dict[str, Any]] = []
    while len(pickle.dumps(found, 5)) < size:
        number = len(found) + 1
        found.append(
            {
                "id": 100_000 + number,
                "name": f"Product number {number}",
                "price": Decimal(number) / 4,
                "added": date(2026, 1, 1 + number % 28),
                "active": number % 3 > 0,
                "rating": number / 7,
            }
        )
    return found


SMALL = {"id": 7, "name": "bob", "text": "x" * 61}

#: About 100 bytes, and 2 KB of rows, as pickles.
VALUES: dict[str, Any] = {"100 B": SMALL, "2 KB of rows": rows(2048)}


class Value(AsyncCacheJob[Any]):
    """A value that stays fresh while it is measured."""

    ttl = 86_400

    def fetch(self, name: str) -> Any:
        """Return one of the values."""
        return VALUES[name]


class Expired(Value):
    """The same, always stale."""

    ttl = 0


class Many(AsyncCacheJob[Any]):
    """Values that are fetched together."""

    ttl = 86_400

    def fetch(self, number: int) -> Any:
        """Return the small value."""
        return SMALL

    def fetch_many(self, calls: Any) -> Any:
        """Return the small value for each call."""
        return [SMALL for _ in calls]
