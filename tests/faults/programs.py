"""Random programs of transactions over cached rows, and another caller who looks on."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, TypeVar

from django.db import DatabaseError, IntegrityError, connections, transaction

from async_cache import AsyncCacheJob, invalidate_tags
from async_cache.entry import Status
from async_cache.reading import judge
from async_cache.threads import close_connections

__all__ = ["KEYS", "Observer", "Program", "Row"]

KEYS = ("a", "b")
TABLE = "faults_rows"
SETS = "faults_sets"
"""What was given to `set`: once its transaction is committed it may be seen, whatever followed."""

SECONDS = 30.0
VERBS = ("invalidate", "delete", "clear", "invalidate_tags")
T = TypeVar("T")
Place = tuple[str, str]


class Row(AsyncCacheJob[int]):
    """The version of a row, read through the caller's own transaction."""

    ttl = 3600
    tags = ("rows",)
    fetches: ClassVar[int] = 0

    def fetch(self, alias: str, key: str) -> int:
        Row.fetches += 1
        return version(alias, key)


def version(alias: str, key: str) -> int:
    """Return what this thread's transaction sees of a row."""
    with connections[alias].cursor() as cursor:
        cursor.execute(f"SELECT version FROM {TABLE} WHERE key = %s", [key])
        (found,) = cursor.fetchone()
    return int(found)


def write(place: Place, number: int, verb: str) -> None:
    alias, key = place
    with connections[alias].cursor() as cursor:
        cursor.execute(f"UPDATE {TABLE} SET version = %s WHERE key = %s", [number, key])
        if verb == "set":
            cursor.execute(f"INSERT INTO {SETS} VALUES (%s, %s)", [key, number])


def history(place: Place) -> set[int]:
    """Return what was set, as far as it is committed."""
    alias, key = place
    with connections[alias].cursor() as cursor:
        cursor.execute(f"SELECT version FROM {SETS} WHERE key = %s", [key])
        return {row[0] for row in cursor.fetchall()}


def change(verb: str, place: Place, number: int) -> None:
    """Say that a row has changed."""
    if verb == "set":
        Row().set(number, *place)
    elif verb == "clear":
        Row().clear()
    elif verb == "invalidate_tags":
        invalidate_tags("rows")
    else:
        getattr(Row(), verb)(*place)


class Undo(Exception):
    """Leaves a block by the exception path."""


class Failed(Exception):
    """A database refused a command: its transaction is over."""

    def __init__(self, alias: str) -> None:
        super().__init__(alias)
        self.alias = alias


class Observer:
    """Another caller, in a thread of its own, who sees what is committed and nothing else.

    Attributes:
        committed: The versions that each row has ever had.
        current: The one that it has.
    """

    def __init__(self, aliases: Sequence[str], connect: Callable[[], None]) -> None:
        self.places: list[Place] = [(alias, key) for alias in aliases for key in KEYS]
        self.committed: dict[Place, set[int]] = {place: set() for place in self.places}
        self.current: dict[Place, int] = {}
        self.numbers = 0
        self._thread = ThreadPoolExecutor(1)
        self.elsewhere(connect)
        for alias in aliases:
            self.elsewhere(partial(self._make, alias))
            self.note(alias)

    def elsewhere(self, work: Callable[[], T]) -> T:
        """Do something in its thread."""
        return self._thread.submit(work).result(SECONDS)

    def _make(self, alias: str) -> None:
        with connections[alias].cursor() as cursor:
            cursor.execute(
                f"CREATE TABLE IF NOT EXISTS {TABLE} (key text PRIMARY KEY, version int)"
            )
            cursor.execute(f"CREATE TABLE IF NOT EXISTS {SETS} (key text, version int)")
            cursor.execute(f"DELETE FROM {TABLE}")
            cursor.execute(f"DELETE FROM {SETS}")
            cursor.executemany(f"INSERT INTO {TABLE} VALUES (%s, 0)", [(key,) for key in KEYS])

    def close(self) -> None:
        self.elsewhere(close_connections)
        self._thread.shutdown()

    def number(self) -> int:
        """Return a version that no row has had."""
        self.numbers += 1
        return self.numbers

    def note(self, alias: str) -> None:
        """Look what is committed now."""
        for place in self.places:
            if place[0] == alias:
                found = self.elsewhere(partial(version, *place))
                self.current[place] = found
                self.committed[place] |= {found, *self.elsewhere(partial(history, place))}

    def change(self, place: Place, verb: str) -> None:
        """Write a row, and say so, in a transaction of its own."""
        number = self.number()

        def work() -> None:
            with transaction.atomic(place[0]):
                write(place, number, verb)
                change(verb, place, number)

        # Known before it can be read.
        self.committed[place].add(number)
        self.current[place] = number
        self.elsewhere(work)

    def look(self) -> None:
        """Check what others than the program are shown, through the cache alone."""
        runtime = Row()._runtime

        def work() -> list[Any]:
            addresses = [runtime.address(place, {}) for place in self.places]
            raws = runtime.store.read_many([address.handle for address in addresses])
            return [judge(runtime, *each) for each in zip(addresses, raws, strict=True)]

        for place, found in zip(self.places, self.elsewhere(work), strict=True):
            if found is None:
                continue
            _, value, decision = found
            assert value in self.committed[place], f"{place}: {value} was never committed"
            if decision.status is Status.FRESH:
                assert value == self.current[place], f"{place}: the change of {value} was lost"


@dataclass
class Program:
    """One program over two databases.

    Attributes:
        aliases: The databases.
        chance: Where chance comes from.
        level: The isolation level of its transactions.
        observer: The other caller.
    """

    aliases: Sequence[str]
    chance: random.Random
    level: str
    observer: Observer
    opened: list[str] = field(default_factory=list)
    locked: set[Place] = field(default_factory=set)
    ends: dict[str, int] = field(default_factory=dict)

    def run(self) -> None:
        for _ in range(2):
            self.block(0)
            assert not self.opened
            self.observer.look()
            place = self.chance.choice(self.observer.places)
            assert Row().get(*place) in self.observer.committed[place]

    def block(self, depth: int) -> None:
        chance = self.chance
        alias = chance.choice(self.aliases)
        outermost = alias not in self.opened
        leave = chance.choice(["end", "end", "end", "raise", "set_rollback"])
        try:
            with transaction.atomic(alias, savepoint=chance.random() < 0.75):
                if outermost:
                    self.begin(alias)
                for _ in range(chance.randint(1, 5)):
                    self.step(depth)
                if leave == "raise":
                    raise Undo
                if leave == "set_rollback":
                    transaction.set_rollback(True, using=alias)
        except Undo:
            pass
        except Failed as error:
            leave = "failed"
            if error.alias != alias or not outermost:
                raise
        finally:
            self.ends[leave] = self.ends.get(leave, 0) + 1
            if outermost:
                self.opened.remove(alias)
                self.locked = {place for place in self.locked if place[0] != alias}
                self.observer.note(alias)
        self.observer.look()

    def begin(self, alias: str) -> None:
        self.opened.append(alias)
        with connections[alias].cursor() as cursor:
            cursor.execute(f"SET TRANSACTION ISOLATION LEVEL {self.level}")

    def step(self, depth: int) -> None:
        roll = self.chance.random()
        if roll < 0.25 and depth < 3:
            self.block(depth + 1)
        elif roll < 0.5:
            self.write()
        elif roll < 0.7:
            self.read()
        elif roll < 0.75:
            self.collide()
        elif roll < 0.87:
            free = [place for place in self.observer.places if place not in self.locked]
            if free:
                self.observer.change(self.chance.choice(free), self.chance.choice(VERBS))
        else:
            place = self.chance.choice(self.observer.places)
            value = self.observer.elsewhere(lambda: Row().get(*place))
            assert value in self.observer.committed[place], f"{place}: others read {value}"
        if self.chance.random() < 0.3:
            self.observer.look()

    def usable(self, alias: str) -> bool:
        return not connections[alias].needs_rollback

    def write(self) -> None:
        alias, key = self.chance.choice(self.opened), self.chance.choice(KEYS)
        if not self.usable(alias):
            return
        # A set is no invalidation: it happens when all databases have committed, or not at all.
        verbs = (*VERBS, "set") if len(self.opened) == 1 else VERBS
        verb, number = self.chance.choice(verbs), self.observer.number()
        before = self.chance.random() < 0.3
        if before:
            change(verb, (alias, key), number)
        try:
            write((alias, key), number, verb)
        except DatabaseError as error:
            raise Failed(alias) from error
        self.locked.add((alias, key))
        if not before:
            change(verb, (alias, key), number)

    def read(self) -> None:
        alias, key = self.chance.choice(self.aliases), self.chance.choice(KEYS)
        if not self.usable(alias):
            return
        value, own = Row().get(alias, key), version(alias, key)
        if own not in self.observer.committed[alias, key]:
            assert value == own, f"{alias, key}: read {value}, had written {own}"

    def collide(self) -> None:
        alias = self.chance.choice(self.opened)
        if not self.usable(alias):
            return
        savepoint = self.chance.random() < 0.7
        with suppress(IntegrityError), transaction.atomic(alias, savepoint=savepoint):
            self.write()
            if self.usable(alias):
                with connections[alias].cursor() as cursor:
                    cursor.execute(f"INSERT INTO {TABLE} VALUES (%s, 0)", [KEYS[0]])
