"""Random programs of nested blocks and savepoints, judged by the databases themselves.

With everything a program asks of `async_cache.transactions` it writes a row. What the database has
kept of those rows says what must have survived, so there is no model of savepoints to be wrong.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from async_cache import transactions
from async_cache.entry import MISSING

KEYS = ["k1", "k2"]
NAMES = ["n1", "n2", "n3"]


class Undo(Exception):
    """Leaves a number of blocks by the exception path."""

    def __init__(self, blocks: int) -> None:
        super().__init__(blocks)
        self.blocks = blocks


@dataclass
class Item:
    """One thing asked for, in the transactions open then."""

    number: int
    kind: str
    word: str
    opened: dict[str, int]
    scopes: tuple[str, ...] = ()
    runs: int = 0

    def run(self) -> None:
        self.runs += 1


@dataclass
class Program:
    """One program over two databases."""

    databases: Sequence[BaseDatabaseWrapper]
    chance: random.Random
    by_hand: bool
    items: list[Item] = field(default_factory=list)
    opened: dict[str, int] = field(default_factory=dict)
    savepoints: dict[str, list[list[str]]] = field(default_factory=dict)
    begun: int = 0
    checks: int = 0

    def run(self) -> None:
        for database in self.databases:
            with database.cursor() as cursor:
                cursor.execute(f"DELETE FROM marker_{database.alias}")
        for _ in range(3):
            self.block(0)
            assert transactions.current() is None
            assert not transactions.active()
        rows = self.rows()
        for item in self.items:
            survived = [item.number in rows[alias] for alias in item.opened]
            if item.kind == "all":
                assert item.runs == int(all(survived)), item
            if item.kind == "any":
                assert item.runs == sum(survived) or (self.by_hand and item.runs > sum(survived))

    def block(self, depth: int) -> None:
        alias = self.chance.choice(self.databases).alias
        outermost = alias not in self.opened
        leave = self.chance.choice(["end", "end", "end", "raise", "set_rollback"])
        blocks = self.chance.choice([1, 1, 2])
        try:
            with transaction.atomic(alias, savepoint=self.chance.random() < 0.75):
                if outermost:
                    self.begun += 1
                    self.opened[alias] = self.begun
                self.savepoints.setdefault(alias, []).append([])
                for _ in range(self.chance.randint(1, 5)):
                    self.step(depth)
                self.savepoints[alias].pop()
                if leave == "raise":
                    raise Undo(blocks)
                if leave == "set_rollback":
                    transaction.set_rollback(True, using=alias)
        except Undo as undo:
            del self.savepoints[alias][self.open_blocks(alias) :]
            if undo.blocks > 1 and depth > 0:
                self.close(alias, outermost)
                raise Undo(undo.blocks - 1) from None
        self.close(alias, outermost)
        self.check()

    def close(self, alias: str, outermost: bool) -> None:
        if outermost:
            del self.opened[alias]

    def open_blocks(self, alias: str) -> int:
        return next(len(d.atomic_blocks) for d in self.databases if d.alias == alias)

    def step(self, depth: int) -> None:
        roll = self.chance.random()
        if roll < 0.3 and depth < 4:
            self.block(depth + 1)
        elif roll < 0.45 and self.by_hand:
            self.savepoint()
        else:
            self.ask()
        self.check()

    def savepoint(self) -> None:
        database = self.chance.choice([d for d in self.databases if d.alias in self.opened])
        made = self.savepoints[database.alias][-1]
        if database.needs_rollback:
            return
        if not made or self.chance.random() < 0.5:
            made.append(transaction.savepoint(database.alias))
            return
        place = self.chance.randrange(len(made))
        if self.chance.random() < 0.7:
            transaction.savepoint_rollback(made[place], database.alias)
            del made[place + 1 :]
        else:
            transaction.savepoint_commit(made[place], database.alias)
            del made[place:]

    def ask(self) -> None:
        kind = self.chance.choice(["all", "any", "note", "hold", "hold"])
        word = self.chance.choice(KEYS if kind == "hold" else NAMES)
        item = Item(len(self.items), kind, word, dict(self.opened))
        self.items.append(item)
        for database in self.databases:
            if database.alias in self.opened and not database.needs_rollback:
                with database.cursor() as cursor:
                    cursor.execute(f"INSERT INTO marker_{database.alias} VALUES ({item.number})")
        found = transactions.current()
        assert found is not None
        if kind == "all":
            assert found.on_commit(item.run)
        elif kind == "any":
            found.on_any_commit(item.run)
        elif kind == "note":
            transactions.note_invalidated([word])
        else:
            if not self.by_hand:
                item.scopes = tuple(self.chance.sample(NAMES, self.chance.randint(0, 2)))
            transactions.hold(word, item.number, item.scopes)

    def rows(self) -> dict[str, set[int]]:
        found = {}
        for database in self.databases:
            with database.cursor() as cursor:
                cursor.execute(f"SELECT item FROM marker_{database.alias}")
                found[database.alias] = {row[0] for row in cursor.fetchall()}
        return found

    def check(self) -> None:
        """Compare what is recorded now with what the databases show now."""
        for item in self.items:
            if item.kind == "all" and item.runs:
                assert not self.still_open(item)
        if not self.opened:
            assert not transactions.active()
        if any(database.needs_rollback for database in self.databases):
            return
        self.checks += 1
        rows = self.rows()
        noted = {
            item.number: item
            for item in self.items
            if item.kind == "note"
            and any(item.number in rows[alias] for alias in self.still_open(item))
        }
        for name in NAMES:
            expected = any(item.word == name for item in noted.values())
            answer = transactions.is_invalidated([name])
            assert answer == expected or (self.by_hand and answer)
        for key in KEYS:
            held = [
                item
                for item in self.items
                if (item.kind, item.word) == ("hold", key)
                and self.still_open(item)
                and all(item.number in rows[alias] for alias in item.opened)
            ]
            newest = held[-1] if held else None
            if newest is not None and any(
                number > newest.number and item.word in newest.scopes
                for number, item in noted.items()
            ):
                newest = None
            assert transactions.held(key) == (newest.number if newest is not None else MISSING)

    def still_open(self, item: Item) -> list[str]:
        return [a for a, number in item.opened.items() if self.opened.get(a) == number]


def check_programs(databases: Sequence[BaseDatabaseWrapper], seeds: Iterable[int]) -> None:
    """Run one program for each seed; every third makes savepoints by hand too."""
    kept = lost = checks = 0
    try:
        for database in databases:
            with database.cursor() as cursor:
                cursor.execute(f"CREATE TABLE marker_{database.alias} (item integer)")
        for seed in seeds:
            program = Program(databases, random.Random(seed), by_hand=seed % 3 == 0)
            try:
                program.run()
            except BaseException as error:
                error.add_note(f"program of seed {seed}")
                raise
            ran = [item.runs for item in program.items if item.kind == "all"]
            kept, lost = kept + sum(ran), lost + ran.count(0)
            checks += program.checks
    finally:
        for database in databases:
            if not database.in_atomic_block:
                with database.cursor() as cursor:
                    cursor.execute(f"DROP TABLE IF EXISTS marker_{database.alias}")
    # Programs that only ever lose, or only ever keep, would prove nothing.
    assert kept > 100
    assert lost > 100
    assert checks > 1000
