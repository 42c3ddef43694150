"""Moments as the database takes them."""

from __future__ import annotations

from datetime import UTC, datetime

from django.conf import settings
from django.utils import timezone

from async_cache import clock

__all__ = ["from_timestamp", "now"]


def from_timestamp(seconds: float) -> datetime:
    """Return a moment: aware, or naive in local time where ``USE_TZ`` is off."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment if settings.USE_TZ else timezone.make_naive(moment)


def now() -> datetime:
    """Return the present moment, by the clock that tests can hold still."""
    return from_timestamp(clock.now())
