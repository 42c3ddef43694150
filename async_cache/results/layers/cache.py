# ruff: noqa: D102  (the contract, in base.py, documents the operations)
"""Records and groups over any Django cache: get, add, set, touch, delete, and no counter.

``add`` is the one thing that every shared cache decides atomically, so all is built on it: records
are chains of versions, groups are numbered slots.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from async_cache import clock
from async_cache.exceptions import StoreUnavailable
from async_cache.results.codec import record_opener
from async_cache.results.layers.base import Counts, Layer
from async_cache.results.layers.names import Names
from async_cache.results.layers.opening import opened
from async_cache.results.layers.slots import Slots
from async_cache.results.layers.versions import CHUNK, NOWHERE, Access, Chains, Place, Version
from async_cache.results.records import (
    NO_RECORD,
    NoRecord,
    Outcome,
    Record,
    in_call_order,
    merge,
)
from async_cache.results.sealed import dump_record

__all__ = ["CacheLayer"]

# Each turn lost means that another's save of the same task was accepted meanwhile.
MAX_TURNS: Final = 50


class CacheLayer(Layer):
    """A layer over the Django cache of an alias.

    Sequence numbers are microseconds of the wall clock, since not every cache can count.

    Args:
        alias: Name in ``CACHES``; its store is a `DjangoStore`.
        prefix: First part of every key.
        expires: Seconds that a record lives by default.
    """

    def __init__(self, alias: str, prefix: str, expires: float) -> None:
        self.alias = alias
        self.name = f"the cache {alias!r}"
        self._names = Names(prefix)
        self._expires = expires
        self._access = Access(alias)
        self._chains = Chains(self._access)
        self._slots = Slots(self._access, self._names)
        self._lock = threading.Lock()
        self._last_sequence = 0

    # Records.

    def save(self, record: Record, expires: float | None = None) -> bool:
        life = self._expires if expires is None else expires
        opener, key = record_opener(), self._key(record.id)
        taken = NOWHERE
        for _ in range(MAX_TURNS):
            [before] = self._chains.highest([key])
            if before.rank > record.rank:
                self._leave(taken, before.place)
                return False
            whole = merge(self._open(before, record.id), record)
            place = self._place(whole, before, taken, life)
            if place != before.place:
                taken = place
            sealed = dump_record(whole, opener)
            if self._chains.extend(key, before, place, sealed, life):
                self._settle(whole, place, before, life)
                self._leave(taken, place)
                return True
        raise StoreUnavailable(
            f"{self.name} took no record of {record.id} in {MAX_TURNS} turns: others keep saving "
            "the same task, or the record is larger than it takes."
        )

    def _place(self, record: Record, before: Version, taken: Place, life: float) -> Place:
        """Return the record's place in its group; take one when it has none."""
        if not record.group:
            return NOWHERE
        generation = self._slots.open(record.group, life)
        for place in (before.place, taken):
            if place.generation == generation:
                return place
        return self._slots.take(record.group, generation, record.id, life)

    def _settle(self, record: Record, place: Place, before: Version, life: float) -> None:
        """Do what follows an accepted write; what is left undone here, readers can do without."""
        store, names, key = self._access.store, self._names, self._key(record.id)
        writes = self._chains.stubs(key, before)
        if record.name:
            writes[names.name(record.name)] = names.tail(record.id).encode()
        ended = (record.outcome, before.outcome) != (Outcome.NONE, Outcome.NONE)
        if place != NOWHERE and ended:
            writes[self._slots.key(place)] = self._slots.value(record.id, record.outcome)
        if writes:
            store.set_many(writes, life)
        if place != NOWHERE and ended and not record.successful:
            self._agree(record.id, place, record.outcome, life)
        self._leave(before.place, place)

    def _leave(self, place: Place, stays: Place) -> None:
        """Give back a place, unless it is none or where the record stays."""
        if place not in (NOWHERE, stays):
            self._access.store.remove([self._slots.key(place)])

    def _agree(self, task_id: str, place: Place, said: Outcome, life: float) -> None:
        """Have the slot say what the record says, whoever wrote either last.

        Nothing beats a success, so only who wrote something else need look again.
        """
        for _ in range(MAX_TURNS):
            [version] = self._chains.highest([self._key(task_id)])
            if version.place != place or version.outcome is said:
                return
            said = version.outcome
            self._access.store.set(self._slots.key(place), self._slots.value(task_id, said), life)

    def get_many(self, task_ids: Sequence[str]) -> list[Record | NoRecord]:
        found: list[Record | NoRecord] = []
        for at in range(0, len(task_ids), CHUNK):
            ids = task_ids[at : at + CHUNK]
            versions = self._chains.highest([self._key(task_id) for task_id in ids])
            found += self._open_all(versions, ids)
        return found

    def _open(self, version: Version, task_id: str) -> Record | NoRecord:
        return self._open_all([version], [task_id])[0]

    def _open_all(
        self, versions: Sequence[Version], task_ids: Sequence[str]
    ) -> list[Record | NoRecord]:
        """Return the records, without group where its label was dropped since."""
        opener = record_opener()
        records = [
            opened(version.sealed, opener, task_id) if version.sealed else NO_RECORD
            for version, task_id in zip(versions, task_ids, strict=True)
        ]
        lives = self._slots.generations(
            {r.group for r in records if r is not NO_RECORD and r.group}
        )
        return [
            record.replace(group="", sequence=None)
            if record is not NO_RECORD
            and record.group
            and lives.get(record.group) != version.place.generation
            else record
            for record, version in zip(records, versions, strict=True)
        ]

    def find(self, name_or_id: str) -> Record | NoRecord:
        found = self.get(name_or_id)
        if found is not NO_RECORD:
            return found
        name = self._names.name(name_or_id)
        tail = self._access.read([name]).get(name)
        if tail is None:
            return NO_RECORD
        [version] = self._chains.highest([self._names.record(tail.decode("ascii", "replace"))])
        record = opened(version.sealed, record_opener()) if version.sealed else NO_RECORD
        # What leads from names to ids carries no seal.
        if record is NO_RECORD or record.name != name_or_id:
            return NO_RECORD
        return self._open(version, record.id)

    def forget(self, task_id: str) -> bool:
        key = self._key(task_id)
        [version] = self._chains.highest([key])
        stale = self._chains.keys(key, version)
        if version.place != NOWHERE:
            stale.append(self._slots.key(version.place))
        self._access.store.remove(stale)
        return bool(version.sealed)

    # Groups.

    def group(self, group_id: str) -> list[Record]:
        generation = self._slots.generation(group_id)
        found: dict[str, Record] = {}
        for page in self._slots.pages(generation):
            for record, _ in self._members(generation, group_id, page):
                found[record.id] = record
        return in_call_order(found.values())

    def _members(
        self, generation: str, group_id: str, task_ids: Iterable[str]
    ) -> Iterator[tuple[Record, Version]]:
        opener, ids = record_opener(), list(task_ids)
        versions = self._chains.highest([self._key(task_id) for task_id in ids])
        for task_id, version in zip(ids, versions, strict=True):
            if version.sealed and version.place.generation == generation:
                record = opened(version.sealed, opener, task_id)
                if record is not NO_RECORD and record.group == group_id:
                    yield record, version

    def count(self, group_id: str) -> Counts:
        generation = self._slots.generation(group_id)
        said: dict[str, Outcome] = {}
        for page in self._slots.pages(generation):
            said.update(page)
        unsaid = [task_id for task_id, outcome in said.items() if outcome is Outcome.NONE]
        for at in range(0, len(unsaid), CHUNK):
            for record, _ in self._members(generation, group_id, unsaid[at : at + CHUNK]):
                said[record.id] = record.outcome
        outcomes = list(said.values())
        return Counts(outcomes.count(Outcome.SUCCEEDED), outcomes.count(Outcome.FAILED))

    def has_ended(self, group_id: str, least: int) -> bool:
        generation = self._slots.generation(group_id)
        return self._slots.may_hold(generation, least) and super().has_ended(group_id, least)

    def reserve(self, group_id: str, n: int = 1) -> int:
        with self._lock:
            first = max(self._last_sequence + 1, int(clock.now() * 1_000_000))
            self._last_sequence = first + n - 1
        return first

    def delete_group(self, group_id: str, tasks: bool = False) -> int:
        names, store = self._names, self._access.store
        generation = self._slots.generation(group_id)
        members: dict[str, Version] = {}
        for page in self._slots.pages(generation):
            for record, version in self._members(generation, group_id, page):
                members[record.id] = version
        if not generation:
            return 0
        stale = [names.group(group_id), names.hint(generation)]
        for task_id, version in members.items():
            stale.append(self._slots.key(version.place))
            if tasks:
                stale += self._chains.keys(self._key(task_id), version)
        for at in range(0, len(stale), CHUNK):
            store.remove(stale[at : at + CHUNK])
        return len(members)

    def _key(self, task_id: str) -> str:
        return self._names.record(self._names.tail(task_id))
