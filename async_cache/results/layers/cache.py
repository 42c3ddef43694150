# ruff: noqa: D102  (the contract, in base.py, documents the operations)
"""Records and groups over any Django cache: get, add, set, touch, delete, and no counter.

``add`` is the one thing that every shared cache decides atomically, so all is built on it.

A record is a chain of *versions*, keys with a number at their end; the highest is the record. To
save is to read the highest, compare ranks, and ``add`` the next one: who loses that reads again. So
no write of lower rank can hide one of higher rank, however long its process was held up. What was
replaced becomes an empty *stub*, so that nobody can add it again. Versions are read in *windows*,
each twice as long as the one before; the end of one says that there may be a next.

A group is a random *generation* under its label and one *slot* a member, numbered, taken by ``add``
from the first free one; nothing is shared but the numbers. A slot holds how its task ended and its
id. It is taken before the record is written and completed afterwards: a process killed in between
leaves a slot without an outcome, for which readers look at the record itself. A task that got two
slots that way is still one member. Readers start at the first slot and end where no more are taken.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from struct import Struct
from typing import Final, NamedTuple

from async_cache import clock, conf
from async_cache.exceptions import StoreUnavailable
from async_cache.results.codec import record_opener
from async_cache.results.layers.base import Counts, Layer
from async_cache.results.layers.names import Names
from async_cache.results.layers.opening import opened
from async_cache.results.records import (
    NO_RECORD,
    NoRecord,
    Outcome,
    Record,
    dump_record,
    in_call_order,
    merge,
    outcome_of,
    rank_in,
)
from async_cache.stores.django import DjangoStore
from async_cache.stores.registry import get_store

__all__ = ["CacheLayer"]

WINDOW: Final = 8
MAX_WINDOWS: Final = 20
MAX_TURNS: Final = 50
CHUNK: Final = 500
# A slot is only taken when the one before it was: so many free ones after the hint are the end.
MARGIN: Final = 64
HINT_EVERY: Final = 16
MAX_KNOWN: Final = 1_000
# What a process remembers of a group must not outlive the slots.
KNOWN_SECONDS: Final = 30.0

_PLACE: Final = Struct(">8sI")
_NO_SLOT: Final = 2**32 - 1
_OUTCOMES: Final = {b"s": Outcome.SUCCEEDED, b"f": Outcome.FAILED, b".": Outcome.NONE}
_LETTERS: Final = {outcome: letter for letter, outcome in _OUTCOMES.items()}


class _Stored(NamedTuple):
    """The highest version of a record: where it stands, its place in a group, its bytes."""

    number: int
    generation: str
    slot: int
    sealed: bytes


_NOTHING: Final = _Stored(-1, "", _NO_SLOT, b"")


def _window(index: int) -> range:
    return range(WINDOW * (2**index - 1), WINDOW * (2 ** (index + 1) - 1))


_WINDOWS: Final = tuple(_window(index) for index in range(MAX_WINDOWS))


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
        self._lock = threading.Lock()
        self._last_sequence = 0
        # Where this process last took a slot, by generation: only ever a hint.
        self._taken: OrderedDict[str, tuple[int, float]] = OrderedDict()

    # Records.

    def save(self, record: Record, expires: float | None = None) -> bool:
        life = self._expires if expires is None else expires
        names, opener = self._names, record_opener()
        key = names.record(names.tail(record.id))
        new_slot = ("", _NO_SLOT)
        for _ in range(MAX_TURNS):
            stored = self._highest([key])[0]
            if rank_in(stored.sealed) > record.rank:
                self._vacate(new_slot, stored)
                return False
            old = opened(stored.sealed, opener, record.id) if stored.sealed else NO_RECORD
            if old is not NO_RECORD and self._unlabelled(old, stored):
                old = old.replace(group="", sequence=None)
            whole = merge(old, record)
            place = self._place(whole, stored, new_slot, life)
            if place != (stored.generation, stored.slot):
                new_slot = place
            generation, slot = place
            value = _PLACE.pack(bytes.fromhex(generation or "0" * 16), slot)
            value += dump_record(whole, opener)
            if self._store.add(f"{key}.{stored.number + 1}", value, life):
                self._settle(whole, place, stored, key, life)
                return True
        raise StoreUnavailable(
            f"{self.name} could not save {record.id}: others keep saving the same task."
        )

    def _highest(self, keys: Sequence[str]) -> list[_Stored]:
        """Return the highest version under each key."""
        found = dict.fromkeys(keys, _NOTHING)
        asked = list(found)
        for window in _WINDOWS:
            values = self._read(f"{key}.{number}" for key in asked for number in window)
            going_on = []
            for key in asked:
                for number in reversed(window):
                    raw = values.get(f"{key}.{number}")
                    if raw is not None:
                        found[key] = self._parse(number, raw)
                        break
                if f"{key}.{window[-1]}" in values:
                    going_on.append(key)
            asked = going_on
            if not asked:
                break
        return [found[key] for key in keys]

    @staticmethod
    def _parse(number: int, raw: bytes) -> _Stored:
        if len(raw) < _PLACE.size:
            return _Stored(number, "", _NO_SLOT, b"")
        generation, slot = _PLACE.unpack_from(raw)
        return _Stored(
            number, generation.hex() if slot != _NO_SLOT else "", slot, raw[_PLACE.size :]
        )

    def _settle(
        self, record: Record, place: tuple[str, int], before: _Stored, key: str, life: float
    ) -> None:
        """Do what follows an accepted write; what is left undone here, readers can do without."""
        store, names = self._store, self._names
        writes = {f"{key}.{window[-1]}": b"" for window in _WINDOWS if window[-1] < before.number}
        if before.number >= 0:
            writes[f"{key}.{before.number}"] = b""
        if record.name:
            writes[names.name(record.name)] = names.tail(record.id).encode()
        was = outcome_of(rank_in(before.sealed)) if before.sealed else Outcome.NONE
        counted = place[1] != _NO_SLOT and (record.outcome, was) != (Outcome.NONE, Outcome.NONE)
        if counted:
            writes[names.slot(*place)] = _LETTERS[record.outcome] + record.id.encode()
        if writes:
            store.set_many(writes, life)
        if counted and not record.successful:
            self._agree(key, place, record.outcome, record.id, life)
        left = before.generation, before.slot
        if before.slot != _NO_SLOT and left != place:
            store.remove([names.slot(*left)])

    def _agree(
        self, key: str, place: tuple[str, int], said: Outcome, task_id: str, life: float
    ) -> None:
        """Have the slot say what the record says, whoever wrote either last.

        Nothing beats a success, so only who wrote something else need look again.
        """
        for _ in range(MAX_TURNS):
            stored = self._highest([key])[0]
            outcome = outcome_of(rank_in(stored.sealed)) if stored.sealed else said
            if outcome is said or (stored.generation, stored.slot) != place:
                return
            said = outcome
            name = self._names.slot(*place)
            self._store.set(name, _LETTERS[said] + task_id.encode(), life)

    def get_many(self, task_ids: Sequence[str]) -> list[Record | NoRecord]:
        names, opener = self._names, record_opener()
        found: list[Record | NoRecord] = []
        for at in range(0, len(task_ids), CHUNK):
            ids = task_ids[at : at + CHUNK]
            highest = self._highest([names.record(names.tail(task_id)) for task_id in ids])
            records = [
                opened(stored.sealed, opener, task_id) if stored.sealed else NO_RECORD
                for task_id, stored in zip(ids, highest, strict=True)
            ]
            labels = {r.group for r in records if r is not NO_RECORD and r.group}
            lives = self._generations(labels)
            for record, stored in zip(records, highest, strict=True):
                dropped = (
                    record is not NO_RECORD
                    and bool(record.group)
                    and lives.get(record.group) != stored.generation
                )
                if dropped and record is not NO_RECORD:
                    found.append(record.replace(group="", sequence=None))
                else:
                    found.append(record)
        return found

    def find(self, name_or_id: str) -> Record | NoRecord:
        found = self.get(name_or_id)
        if found is not NO_RECORD:
            return found
        name = self._names.name(name_or_id)
        tail = self._read([name]).get(name)
        if tail is None:
            return NO_RECORD
        [stored] = self._highest([self._names.record(tail.decode("ascii", "replace"))])
        record = opened(stored.sealed, record_opener()) if stored.sealed else NO_RECORD
        if record is NO_RECORD or record.name != name_or_id:
            return NO_RECORD
        return self.get(record.id)

    def forget(self, task_id: str) -> bool:
        key = self._names.record(self._names.tail(task_id))
        [stored] = self._highest([key])
        if stored.number < 0:
            return False
        stale = self._versions(key, stored)
        if stored.slot != _NO_SLOT:
            stale.append(self._names.slot(stored.generation, stored.slot))
        self._store.remove(stale)
        return bool(stored.sealed)

    @staticmethod
    def _versions(key: str, stored: _Stored) -> list[str]:
        return [f"{key}.{number}" for number in range(stored.number + 1)]

    # Groups.

    def _generations(self, labels: Iterable[str]) -> dict[str, str]:
        by_key = {self._names.group(label): label for label in labels}
        found = self._read(by_key) if by_key else {}
        return {by_key[key]: raw.hex() for key, raw in found.items() if len(raw) == 8}

    def _generation(self, label: str) -> str:
        return self._generations([label]).get(label, "")

    def _unlabelled(self, record: Record, stored: _Stored) -> bool:
        return bool(record.group) and self._generation(record.group) != stored.generation

    def _open_group(self, label: str, life: float) -> str:
        for _ in range(MAX_TURNS):
            generation = self._generation(label)
            if generation:
                return generation
            fresh = os.urandom(8)
            if self._store.add(self._names.group(label), fresh, self._longest(life)):
                return fresh.hex()
        raise StoreUnavailable(f"{self.name} does not keep the group {label!r}.")

    def _place(
        self, record: Record, stored: _Stored, mine: tuple[str, int], life: float
    ) -> tuple[str, int]:
        """Return the record's generation and slot; take one when it has none."""
        if not record.group:
            return "", _NO_SLOT
        generation = self._open_group(record.group, life)
        if stored.generation == generation:
            return generation, stored.slot
        if mine[0] == generation:
            return mine
        self._store.touch(self._names.group(record.group), self._longest(life))
        return generation, self._take_slot(generation, record.id, life)

    def _take_slot(self, generation: str, task_id: str, life: float) -> int:
        """Take the first free slot at or after the last that is known to be taken."""
        value = _LETTERS[Outcome.NONE] + task_id.encode()
        slot = self._last_hint(generation)
        while not self._store.add(self._names.slot(generation, slot), value, life):
            ahead = range(slot + 1, slot + 1 + MARGIN)
            taken = self._slots(generation, ahead)
            slot = max(taken) + 1 if taken else slot + 1
        with self._lock:
            self._taken[generation] = slot + 1, clock.monotonic() + KNOWN_SECONDS
            self._taken.move_to_end(generation)
            if len(self._taken) > MAX_KNOWN:
                self._taken.popitem(last=False)
        if slot % HINT_EVERY == HINT_EVERY - 1:
            hint = self._names.hint(generation)
            self._store.set(hint, b"%d" % (slot + 1), self._longest(life))
        return slot

    @staticmethod
    def _longest(life: float) -> float:
        """Return how long what leads to slots lives: one short-lived member must not end it."""
        return max(life, conf.get_settings().max_lifetime)

    def _last_hint(self, generation: str) -> int:
        known = self._taken.get(generation)
        if known is not None and clock.monotonic() < known[1]:
            return known[0]
        name = self._names.hint(generation)
        raw = self._read([name]).get(name, b"0")
        return int(raw) if raw.isdigit() else 0

    def _vacate(self, place: tuple[str, int], stored: _Stored) -> None:
        """Give back a slot that was taken for a write that was then refused."""
        if place[1] != _NO_SLOT and place != (stored.generation, stored.slot):
            self._store.remove([self._names.slot(*place)])

    def _slots(self, generation: str, numbers: Iterable[int]) -> dict[int, bytes]:
        names = {self._names.slot(generation, number): number for number in numbers}
        return {names[name]: raw for name, raw in self._read(names).items()}

    def _pages(self, generation: str) -> Iterator[dict[str, Outcome]]:
        """Yield what the slots say, by id, in pages; each id once."""
        seen: dict[str, Outcome] = {}
        hint, at = self._last_hint(generation), 0
        while True:
            # A first page of a few; what is known to be taken in large ones.
            size = min(CHUNK, max(MARGIN, hint - at))
            slots = self._slots(generation, range(at, at + size))
            page: dict[str, Outcome] = {}
            for raw in slots.values():
                task_id, outcome = raw[1:].decode("utf-8", "replace"), _OUTCOMES.get(raw[:1])
                if outcome is not None and seen.get(task_id) in (None, Outcome.NONE):
                    page[task_id] = seen[task_id] = outcome
            if page:
                yield page
            at += size
            if not slots and at >= hint:
                return

    def group(self, group_id: str) -> list[Record]:
        generation = self._generation(group_id)
        found: dict[str, Record] = {}
        for page in self._pages(generation) if generation else ():
            for record in self._members(generation, group_id, page):
                found[record.id] = record
        return in_call_order(found.values())

    def _members(self, generation: str, group_id: str, task_ids: Iterable[str]) -> Iterator[Record]:
        names, opener, ids = self._names, record_opener(), list(task_ids)
        highest = self._highest([names.record(names.tail(task_id)) for task_id in ids])
        for task_id, stored in zip(ids, highest, strict=True):
            if stored.sealed and stored.generation == generation:
                record = opened(stored.sealed, opener, task_id)
                if record is not NO_RECORD and record.group == group_id:
                    yield record

    def count(self, group_id: str) -> Counts:
        generation = self._generation(group_id)
        said: dict[str, Outcome] = {}
        for page in self._pages(generation) if generation else ():
            said.update(page)
        open_ids = [task_id for task_id, outcome in said.items() if outcome is Outcome.NONE]
        for at in range(0, len(open_ids), CHUNK):
            for record in self._members(generation, group_id, open_ids[at : at + CHUNK]):
                said[record.id] = record.outcome
        outcomes = list(said.values())
        return Counts(outcomes.count(Outcome.SUCCEEDED), outcomes.count(Outcome.FAILED))

    def reserve(self, group_id: str, n: int = 1) -> int:
        with self._lock:
            first = max(self._last_sequence + 1, int(clock.now() * 1_000_000))
            self._last_sequence = first + n - 1
        return first

    def delete_group(self, group_id: str, tasks: bool = False) -> int:
        generation = self._generation(group_id)
        if not generation:
            return 0
        members: dict[str, _Stored] = {}
        names = self._names
        for page in self._pages(generation):
            ids = list(page)
            highest = self._highest([names.record(names.tail(task_id)) for task_id in ids])
            for task_id, stored in zip(ids, highest, strict=True):
                if stored.sealed and stored.generation == generation:
                    members[task_id] = stored
        stale = [names.group(group_id), names.hint(generation)]
        for task_id, stored in members.items():
            stale.append(names.slot(generation, stored.slot))
            if tasks:
                stale += self._versions(names.record(names.tail(task_id)), stored)
        for at in range(0, len(stale), CHUNK):
            self._store.remove(stale[at : at + CHUNK])
        return len(members)

    # The store may be made anew when settings change.

    @property
    def _store(self) -> DjangoStore:
        store = get_store(self.alias)
        assert isinstance(store, DjangoStore)
        return store

    def _read(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return what is there, as bytes."""
        wanted = list(names)
        found: dict[str, bytes] = {}
        for at in range(0, len(wanted), CHUNK):
            for name, raw in self._store.get_many(wanted[at : at + CHUNK]).items():
                found[name] = raw if isinstance(raw, bytes) else b""
        return found
