"""Rows of task and group results, and of chords.

`TaskMeta` and `TaskSetMeta` are the same rows under the names that djcelery gave them.
"""

from __future__ import annotations

from async_cache.results.models.counted import ChordCounter, ChordPart, GroupSequence
from async_cache.results.models.groups import GroupResult
from async_cache.results.models.named import TaskMeta, TaskSetMeta
from async_cache.results.models.tasks import (
    TASK_STATUS_DONE,
    TASK_STATUS_FAILURE,
    TASK_STATUS_PENDING,
    TASK_STATUS_RETRY,
    TASK_STATUSES,
    TASK_STATUSES_CHOICES,
    TaskResult,
)

__all__ = [
    "TASK_STATUSES",
    "TASK_STATUSES_CHOICES",
    "TASK_STATUS_DONE",
    "TASK_STATUS_FAILURE",
    "TASK_STATUS_PENDING",
    "TASK_STATUS_RETRY",
    "ChordCounter",
    "ChordPart",
    "GroupResult",
    "GroupSequence",
    "TaskMeta",
    "TaskResult",
    "TaskSetMeta",
]
