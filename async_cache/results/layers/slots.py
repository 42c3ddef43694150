"""Groups as numbered slots, over nothing but ``get_many``, ``add``, ``set`` and ``touch``.

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
from collections.abc import Iterable, Iterator
from typing import Final

from async_cache import clock, conf
from async_cache.exceptions import StoreUnavailable
from async_cache.results.layers.names import Names
from async_cache.results.layers.versions import CHUNK, Access, Place
from async_cache.results.records import Outcome

__all__ = ["Slots"]

GENERATION_SIZE: Final = 8
MAX_TURNS: Final = 50
# A slot is only taken when the one before it was: so many free ones after the hint are the end.
MARGIN: Final = 64
HINT_EVERY: Final = 16
MAX_KNOWN: Final = 1_000
# What a process remembers of a group must not outlive the slots.
KNOWN_SECONDS: Final = 30.0

_OUTCOMES: Final = {b"s": Outcome.SUCCEEDED, b"f": Outcome.FAILED, b".": Outcome.NONE}
_LETTERS: Final = {outcome: letter for letter, outcome in _OUTCOMES.items()}


class Slots:
    """Takes and reads the slots of groups."""

    def __init__(self, access: Access, names: Names) -> None:
        self._access = access
        self._names = names
        self._lock = threading.Lock()
        # Where this process last took a slot, by generation: only ever a hint.
        self._taken: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def generations(self, labels: Iterable[str]) -> dict[str, str]:
        """Return the generation of each label that has one."""
        by_key = {self._names.group(label): label for label in labels}
        found = self._access.read(by_key) if by_key else {}
        return {by_key[k]: raw.hex() for k, raw in found.items() if len(raw) == GENERATION_SIZE}

    def generation(self, label: str) -> str:
        """Return the generation of a label; empty for an unknown one."""
        return self.generations([label]).get(label, "")

    def open(self, label: str, life: float) -> str:
        """Return the generation of a label, made where there is none."""
        for _ in range(MAX_TURNS):
            generation = self.generation(label)
            if generation:
                return generation
            fresh = os.urandom(GENERATION_SIZE)
            if self._access.store.add(self._names.group(label), fresh, _longest(life)):
                return fresh.hex()
        raise StoreUnavailable(
            f"The cache {self._access.alias!r} does not keep the group {label!r}."
        )

    def take(self, label: str, generation: str, task_id: str, life: float) -> Place:
        """Take the first free slot at or after the last that is known to be taken."""
        store, names = self._access.store, self._names
        store.touch(names.group(label), _longest(life))
        value = _LETTERS[Outcome.NONE] + task_id.encode()
        slot = self._hint(generation)
        while not store.add(names.slot(generation, slot), value, life):
            taken = self._read(generation, range(slot + 1, slot + 1 + MARGIN))
            slot = max(taken) + 1 if taken else slot + 1
        with self._lock:
            self._taken[generation] = slot + 1, clock.monotonic() + KNOWN_SECONDS
            self._taken.move_to_end(generation)
            if len(self._taken) > MAX_KNOWN:
                self._taken.popitem(last=False)
        if slot % HINT_EVERY == HINT_EVERY - 1:
            store.set(names.hint(generation), b"%d" % (slot + 1), _longest(life))
        return Place(generation, slot)

    def key(self, place: Place) -> str:
        """Return the key of a slot."""
        return self._names.slot(*place)

    @staticmethod
    def value(task_id: str, outcome: Outcome) -> bytes:
        """Return what a slot says of its task."""
        return _LETTERS[outcome] + task_id.encode()

    def pages(self, generation: str) -> Iterator[dict[str, Outcome]]:
        """Yield what the slots say, by id, in pages; none for no generation."""
        seen: dict[str, Outcome] = {}
        hint, at = self._hint(generation) if generation else 0, 0
        while generation:
            size = min(CHUNK, max(MARGIN, hint - at))
            slots = self._read(generation, range(at, at + size))
            page: dict[str, Outcome] = {}
            for raw in slots.values():
                task_id, outcome = raw[1:].decode("utf-8", "replace"), _OUTCOMES.get(raw[:1])
                if outcome is not None and seen.get(task_id) in (None, Outcome.NONE):
                    page[task_id] = seen[task_id] = outcome
            if page:
                yield page
            if not slots and at >= hint:
                return
            at += size

    def may_hold(self, generation: str, members: int) -> bool:
        """Whether so many slots can be taken: without reading them all.

        Nobody takes a slot beyond the first that was never taken. So as many members have a slot of
        that number, or one shortly after it where that was given back.
        """
        if not generation or self._hint(generation) >= members:
            return bool(generation)
        return bool(self._read(generation, range(members - 1, members - 1 + MARGIN)))

    def _read(self, generation: str, numbers: Iterable[int]) -> dict[int, bytes]:
        names = {self._names.slot(generation, number): number for number in numbers}
        return {names[name]: raw for name, raw in self._access.read(names).items()}

    def _hint(self, generation: str) -> int:
        known = self._taken.get(generation)
        if known is not None and clock.monotonic() < known[1]:
            return known[0]
        name = self._names.hint(generation)
        raw = self._access.read([name]).get(name, b"0")
        return int(raw) if raw.isdigit() else 0


def _longest(life: float) -> float:
    """Return how long what leads to slots lives: one short-lived member must not end it."""
    return max(life, conf.get_settings().max_lifetime)
