"""What keeps the tables of results small."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Final

from django.db import models

from async_cache import clock
from async_cache.results.conf import get_results_settings
from async_cache.results.models import (
    ChordCounter,
    ChordPart,
    GroupResult,
    GroupSequence,
    TaskResult,
)
from async_cache.results.purging import (
    BATCH,
    Purged,
    by_state,
    delete_batches,
    delete_beyond_cap,
)
from async_cache.results.utils import now

__all__ = ["Purged", "purge"]

# Beside the task results: what goes with the longest retention, and under which condition.
_OTHERS: Final[tuple[tuple[type[models.Model], str, models.Q], ...]] = (
    (GroupResult, "date_done", models.Q()),
    # Without it the next member of a group that has rows would get the place of its first.
    (
        GroupSequence,
        "date_done",
        models.Q(
            ~models.Exists(
                TaskResult._base_manager.filter(group=models.OuterRef("group")).order_by()
            )
        ),
    ),
    (ChordPart, "date_created", models.Q()),
    (ChordCounter, "date_created", models.Q()),
)


def purge(
    retention: Mapping[str, float] | None = None,
    *,
    group_cap: int | None = None,
    seconds: float | None = None,
    batch: int = BATCH,
    using: str | None = None,
    progress: Callable[[int], object] | None = None,
) -> Purged:
    """Delete old results, in short transactions.

    Groups and open chords stay as long as the longest retention, and at least for ``EXPIRES``: for
    ever where a state is kept so, as those that are not named without ``"*"``. A group keeps its
    places for as long as it has rows.

    Args:
        retention: Seconds by state, ``"*"`` for the others; else the setting ``RETENTION``, else
            ``EXPIRES`` for all.
        group_cap: Rows that a group keeps, the newest; else the setting ``GROUP_CAP``.
        seconds: When it is over, no further batch begins.
        batch: Rows of one transaction.
        using: The database; else the routers decide.
        progress: Called with the number of rows deleted so far.

    Returns:
        How many rows were deleted, and whether that was all.
    """
    settings = get_results_settings()
    kept = dict(retention or settings.retention or {"*": settings.expires})
    cap = settings.group_cap if group_cap is None else group_cap
    alias = using or TaskResult.objects.connection_for_write().alias
    deadline = None if seconds is None else clock.monotonic() + seconds
    moment = now()
    total = Purged()

    def told(deleted: int) -> None:
        if progress is not None:
            progress(total.deleted + deleted)

    for where, age in by_state(kept):
        before = _before(moment, age)
        total += delete_batches(
            TaskResult, alias, where, before, batch=batch, deadline=deadline, progress=told
        )
    if cap is not None:
        total += delete_beyond_cap(TaskResult, alias, cap, batch=batch, deadline=deadline)
        told(0)
    if "*" not in kept:
        return total
    oldest = _before(moment, max(settings.expires, *kept.values()))
    for model, field, where in _OTHERS:
        total += delete_batches(
            model,
            alias,
            where,
            oldest,
            field=field,
            batch=batch,
            deadline=deadline,
            progress=told,
        )
    return total


def _before(moment: datetime, age: float) -> datetime:
    """Return the moment that long ago, or one before all rows."""
    try:
        return moment - timedelta(seconds=age)
    except OverflowError:
        return moment.replace(year=1970, month=1, day=1)
