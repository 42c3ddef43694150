"""Rows of what is counted: places in result groups, parts of chords."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.utils import timezone

from async_cache.results.counters import ChordCounterManager, GroupSequenceManager
from async_cache.results.rows import IdField

__all__ = ["ChordCounter", "ChordPart", "GroupSequence"]


class GroupSequence(models.Model):
    """How many places of a result group have been given out."""

    group = IdField("group", unique=True)
    taken = models.BigIntegerField("places given out", default=0)
    date_done = models.DateTimeField("last saved", auto_now=True)

    objects = GroupSequenceManager["GroupSequence"]()

    class Meta:
        """For the purge."""

        indexes: ClassVar = [models.Index(fields=["date_done"], name="acr_sequence_done")]

    def __str__(self) -> str:
        return str(self.group)


class ChordCounter(models.Model):
    """How many parts the header of a chord has.

    Attributes:
        count: Parts of the header.
        ended: Those that have ended; each has a `ChordPart` row.
    """

    group_id = IdField("group id", unique=True)
    sub_tasks = models.TextField("result tuples of the header")
    count = models.PositiveIntegerField("parts")
    ended = models.PositiveIntegerField("parts that have ended", default=0)
    date_created = models.DateTimeField("created", default=timezone.now)

    objects = ChordCounterManager["ChordCounter"]()

    class Meta:
        """For the purge."""

        indexes: ClassVar = [models.Index(fields=["date_created"], name="acr_chord_created")]

    def __str__(self) -> str:
        return str(self.group_id)


class ChordPart(models.Model):
    """One part of a chord's header that has ended: a row, so a second delivery adds nothing."""

    group_id = IdField("group id")
    task_id = IdField("task id")
    date_created = models.DateTimeField("created", default=timezone.now)

    class Meta:
        """One row a part."""

        constraints: ClassVar = [
            models.UniqueConstraint(fields=["group_id", "task_id"], name="acr_part_once")
        ]
        indexes: ClassVar = [models.Index(fields=["date_created"], name="acr_part_created")]

    def __str__(self) -> str:
        return f"{self.task_id} of {self.group_id}"
