"""The contract of a layer: where records and groups live."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from async_cache.results.records import NO_RECORD, NoRecord, Record
from async_cache.results.waiting.topics import Wire

__all__ = ["Changed", "Counts", "Layer"]


class Counts(NamedTuple):
    """How many members of a group ended, and how."""

    successes: int
    failures: int

    @property
    def ended(self) -> int:
        """All that ended."""
        return self.successes + self.failures


class Changed(NamedTuple):
    """What waiters ask for.

    Attributes:
        records: The records that are ready, by id.
        counts: The counts of each group, by group.
        names: The names under which the last record is ready.
    """

    records: Mapping[str, Record]
    counts: Mapping[str, Counts]
    names: frozenset[str] = frozenset()


class Layer(ABC):
    """Where records and groups live.

    A failing backend surfaces as `StoreUnavailable`. Bytes that do not open count as no record, and
    are announced as ``entry_rejected`` of the job ``async_cache.results``.

    Attributes:
        name: What checks and errors call it.
    """

    name: str

    @property
    def tells(self) -> bool:
        """Whether the store itself tells that a record is ready; else who waits asks `changed`."""
        return False

    @property
    def shared(self) -> bool:
        """Whether another thread may ask it, for those who wait."""
        return True

    @abstractmethod
    def save(self, record: Record, expires: float | None = None) -> bool:
        """Write a record unless one of higher rank is stored; decided in one step, atomically.

        What only the stored record knows of the call (see `records.merge`) is kept. A record with a
        group joins it, once, and is counted in it when it is ready.

        Args:
            record: What to write.
            expires: Seconds that it lives from now; None is the setting's ``EXPIRES``.

        Returns:
            False when it was refused.
        """

    @abstractmethod
    def get_many(self, task_ids: Sequence[str]) -> list[Record | NoRecord]:
        """Return the record of each id, in their order."""

    def get(self, task_id: str) -> Record | NoRecord:
        """Return the record of an id."""
        return self.get_many([task_id])[0]

    @abstractmethod
    def find(self, name_or_id: str) -> Record | NoRecord:
        """Return the record of an id, else the one last written under a task's name."""

    @abstractmethod
    def group(self, group_id: str) -> list[Record]:
        """Return the members of a group in call order, ended or not; none of an unknown group."""

    @abstractmethod
    def count(self, group_id: str) -> Counts:
        """Return how many members ended; zeros for an unknown group."""

    def has_ended(self, group_id: str, least: int) -> bool:
        """Whether as many members ended; cheap while they have not."""
        return self.count(group_id).ended >= least

    @abstractmethod
    def reserve(self, group_id: str, n: int = 1) -> int:
        """Return the first of ``n`` sequence numbers, above all that were given out before."""

    @abstractmethod
    def delete_group(self, group_id: str, tasks: bool = False) -> int:
        """Drop a group's label; its members stay, without group, unless ``tasks`` is true.

        Returns:
            How many members it had; 0 for an unknown group.
        """

    @abstractmethod
    def forget(self, task_id: str) -> bool:
        """Delete a record and its place in its group; False when there was none."""

    # Waiting.

    def changed(
        self, task_ids: Sequence[str], groups: Sequence[str], names: Sequence[str] = ()
    ) -> Changed:
        """Answer all that a process waits for at once: what is ready, and the counts of groups."""
        found = self.get_many(task_ids) if task_ids else []
        named = {name: self.find(name) for name in names}
        return Changed(
            {r.id: r for r in found if r is not NO_RECORD and r.ready},
            {group_id: self.count(group_id) for group_id in groups},
            frozenset(n for n, r in named.items() if r is not NO_RECORD and r.ready),
        )

    def open_wire(self) -> Wire | None:
        """Connect to be told of what becomes ready; None where the store does not tell.

        Called by the thread that uses the wire, and no other uses its database connections.
        """
        return None
