"""The managers of what is counted: places in result groups, parts of chords."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final, TypeVar

from django.apps import apps
from django.db import DatabaseError, models, router, transaction

from async_cache.results.apart import run_apart
from async_cache.results.retrying import transaction_retry
from async_cache.results.upsert import Rules, upsert
from async_cache.results.utils import now

__all__ = ["ChordCounterManager", "GroupSequenceManager"]

M = TypeVar("M", bound=models.Model)

SEQUENCE_RULES: Final = Rules(key="group", add=frozenset({"taken"}))
CHORD_LEASE: Final = 60.0
"""Seconds that the caller of a chord's body has for it."""


class GroupSequenceManager(models.Manager[M]):
    """The manager of `GroupSequence`."""

    def reserve(self, group: str, places: int = 1, using: str | None = None) -> int:
        """Take the next places of a group; survives the rollback of the caller's transaction.

        Within a transaction on SQLite it is part of it.

        Returns:
            The first of them, from 0.
        """
        alias = using or router.db_for_write(self.model)
        return run_apart(alias, lambda: self._reserve(group, places, using=alias), later=False)

    @transaction_retry(max_retries=2)
    def _reserve(self, group: str, places: int, *, using: str) -> int:
        row = {"group": group, "taken": places, "date_done": now()}
        answer = upsert(self.model, using, SEQUENCE_RULES, row, ("taken",))
        if answer is None:
            raise DatabaseError("The database told nothing of the row it wrote.")
        return int(answer[0]) - places


class ChordCounterManager(models.Manager[M]):
    """The manager of `ChordCounter`: which parts of a chord's header have ended."""

    def start(self, group_id: str, count: int, sub_tasks: str, using: str | None = None) -> M:
        """Make the counter of a chord; one that is there already stays as it is.

        Args:
            group_id: Id of the header's group.
            count: How many parts the header has.
            sub_tasks: JSON of their result tuples.
            using: The database; else the routers decide.
        """
        alias = using or router.db_for_write(self.model)
        values = {"count": count, "sub_tasks": sub_tasks}
        return self.using(alias).get_or_create(group_id=group_id, defaults=values)[0]

    def end_part(
        self, group_id: str, task_id: str, using: str | None = None, lease: float = CHORD_LEASE
    ) -> M | None:
        """Note that one part has ended, once however often it is delivered.

        Args:
            group_id: Id of the header's group.
            task_id: Id of the part.
            using: The database; else the routers decide.
            lease: Seconds that the caller who gets the counter has for the body. After them a
                part delivered again gets it too: the first caller may have been killed.

        Returns:
            The counter, when all parts have ended and this caller is to call the body; then it
            ends with `finish`. None otherwise, and when there is no such chord any more.
        """
        alias = using or router.db_for_write(self.model)
        parts = apps.get_model(self.model._meta.app_label, "ChordPart")._base_manager.using(alias)
        with transaction.atomic(using=alias):
            counter: Any = self.using(alias).select_for_update().filter(group_id=group_id).first()
            if counter is None:
                return None
            parts.bulk_create(
                [parts.model(group_id=group_id, task_id=task_id)], ignore_conflicts=True
            )
            if parts.filter(group_id=group_id).count() < counter.count:
                return None
            moment = now()
            taken = counter.date_called
            if taken is not None and moment - taken < timedelta(seconds=lease):
                return None
            counter.date_called = moment
            counter.save(using=alias, update_fields=["date_called"])
            return counter  # type: ignore[no-any-return]

    def finish(self, group_id: str, using: str | None = None) -> None:
        """Delete the counter and the parts of a chord whose body has been called."""
        alias = using or router.db_for_write(self.model)
        parts = apps.get_model(self.model._meta.app_label, "ChordPart")._base_manager.using(alias)
        with transaction.atomic(using=alias):
            self.using(alias).filter(group_id=group_id).delete()
            parts.filter(group_id=group_id).delete()
