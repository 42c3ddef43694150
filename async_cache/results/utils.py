"""Small helpers with the names that django-celery-results gives them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.utils import timezone

from async_cache import clock

__all__ = ["as_timedelta", "from_timestamp", "now", "to_timestamp"]


def now() -> datetime:
    """Return the current date and time: in the current time zone with ``USE_TZ``, else naive."""
    return from_timestamp(clock.now())


def from_timestamp(seconds: float) -> datetime:
    """Return a time of the wall clock as the database fields take it."""
    moment = datetime.fromtimestamp(seconds, UTC)
    if settings.USE_TZ:
        return timezone.localtime(moment)
    return timezone.make_naive(moment, timezone.get_default_timezone())


def to_timestamp(moment: datetime | None) -> float | None:
    """Return a date and time of a row as seconds of the wall clock."""
    if moment is None:
        return None
    if timezone.is_naive(moment):
        moment = timezone.make_aware(moment, timezone.get_default_timezone())
    return moment.timestamp()


def as_timedelta(value: timedelta | float) -> timedelta:
    """Return a duration given in seconds or as a timedelta."""
    return value if isinstance(value, timedelta) else timedelta(seconds=value)
