"""Delete old rows in batches, each a short transaction of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.db import connections, models, transaction

from async_cache import clock

__all__ = ["BATCH", "Purged", "by_state", "delete_batches", "delete_beyond_cap"]

BATCH: Final = 2_000
"""Rows of one transaction at the start."""
SMALLEST_BATCH: Final = 100
SLOW_SECONDS: Final = 0.05
"""A batch that took longer is followed by one of half the size; a quick one by a larger one."""

Progress = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class Purged:
    """What a purge did.

    Attributes:
        deleted: How many rows.
        finished: False when the time was over before the rows were.
    """

    deleted: int = 0
    finished: bool = True

    def __add__(self, other: Purged) -> Purged:
        return Purged(self.deleted + other.deleted, self.finished and other.finished)


def delete_batches(
    model: type[models.Model],
    using: str,
    where: models.Q,
    before: datetime,
    *,
    field: str = "date_done",
    batch: int = BATCH,
    deadline: float | None = None,
    progress: Progress | None = None,
) -> Purged:
    """Delete the rows that match and are older than a moment, oldest first.

    Rows that another transaction has locked are left for the next purge where the database can
    skip them (``SKIP LOCKED``).

    Args:
        model: The table.
        using: The database.
        where: Which rows.
        before: The moment.
        field: The time that is compared, indexed.
        batch: Rows of one transaction; halved while a batch takes too long.
        deadline: A moment of the monotonic clock after which no batch begins.
        progress: Called with the number of rows deleted so far.
    """
    rows, locked = _rows(model, using)
    deleted, size, since = 0, batch, None
    while True:
        if deadline is not None and clock.monotonic() >= deadline:
            return Purged(deleted, finished=False)
        start = clock.monotonic()
        with transaction.atomic(using=using):
            old = locked.filter(where, **{f"{field}__lt": before})
            if since is not None:
                # Not once more over what earlier batches deleted and the index still holds.
                old = old.filter(**{f"{field}__gte": since})
            found = list(old.order_by(field, "pk").values_list("pk", field)[:size])
            if found:
                rows.filter(pk__in=[pk for pk, _ in found]).order_by().delete()
        deleted += len(found)
        if progress is not None and found:
            progress(deleted)
        if len(found) < size:
            return Purged(deleted)
        since = found[-1][1]
        took = clock.monotonic() - start
        if took > SLOW_SECONDS:
            size = max(SMALLEST_BATCH, size // 2)
        elif took < SLOW_SECONDS / 4:
            size = min(batch, size * 2)


def _rows(
    model: type[models.Model], using: str
) -> tuple[models.QuerySet[models.Model], models.QuerySet[models.Model]]:
    """Return all rows, and all that nobody else has locked, to be locked."""
    rows: models.QuerySet[models.Model] = model._base_manager.using(using)
    skip = connections[using].features.has_select_for_update_skip_locked
    return rows, rows.select_for_update(skip_locked=skip)


def by_state(retention: Mapping[str, float]) -> Iterator[tuple[models.Q, float]]:
    """Yield a condition and an age in seconds for each part of a retention.

    Args:
        retention: Seconds by state; ``"*"`` is for the states that are not named.
    """
    named = [state for state in retention if state != "*"]
    for state, seconds in retention.items():
        if state != "*":
            yield models.Q(status=state), seconds
        else:
            yield ~models.Q(status__in=named) if named else models.Q(), seconds


def delete_beyond_cap(
    model: type[models.Model],
    using: str,
    cap: int,
    *,
    batch: int = BATCH,
    deadline: float | None = None,
) -> Purged:
    """Delete the oldest rows of every group that has more than ``cap``.

    Rows that another transaction has locked are left, as by `delete_batches`.

    Args:
        model: The table of task results.
        using: The database.
        cap: Rows that a group keeps.
        batch: Rows of one transaction.
        deadline: A moment of the monotonic clock after which no batch begins.
    """
    rows, locked = _rows(model, using)
    full = (
        rows.filter(group__isnull=False)
        .order_by()
        .values("group")
        .annotate(size=models.Count("pk"))
        .filter(size__gt=cap)
        .values_list("group", "size")
    )
    deleted = 0
    for group, size in list(full):
        excess = size - cap
        while excess > 0:
            if deadline is not None and clock.monotonic() >= deadline:
                return Purged(deleted, finished=False)
            members = rows.filter(group=group).order_by("date_done", "pk")
            oldest = list(members.values_list("pk", flat=True)[: min(batch, excess)])
            if not oldest:
                break
            with transaction.atomic(using=using):
                free = list(locked.filter(pk__in=oldest).order_by().values_list("pk", flat=True))
                if free:
                    deleted += rows.filter(pk__in=free).order_by().delete()[0]
            excess -= len(oldest)
    return Purged(deleted)
