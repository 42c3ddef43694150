"""Write a row, or refuse it for a row of higher rank, in one statement.

SQLite and PostgreSQL compare the ranks in the statement itself. Elsewhere (MySQL and MariaDB have
no condition on their upsert) the row is locked, compared and written in one transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from django.db import IntegrityError, connections, models, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

__all__ = ["Rules", "converted", "upsert", "upsert_many"]

STATEMENT_VENDORS: Final = frozenset({"postgresql", "sqlite"})
_GREATEST: Final = {"postgresql": "GREATEST", "sqlite": "MAX"}
MAX_ROWS: Final = 500
"""Rows of one statement, where the database allows so many parameters."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What an update does with each field; the others take the new value.

    Attributes:
        key: The unique field that two writes of one row share.
        rank: The field compared: an update of lower rank is refused.
        first: Fields that keep their first value.
        keep: Fields that keep the old value where the new one is None.
        latest: Fields that never get smaller.
        add: Fields to which the new value is added.
    """

    key: str
    rank: str | None = None
    first: frozenset[str] = frozenset()
    keep: frozenset[str] = frozenset()
    latest: frozenset[str] = frozenset()
    add: frozenset[str] = frozenset()

    def merge(self, old: Any, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the fields to update; None when the row is refused."""
        if self.rank is not None and getattr(old, self.rank) > row[self.rank]:
            return None
        merged = {}
        for name, given in row.items():
            value = given
            if name == self.key or name in self.first or (name in self.keep and value is None):
                continue
            if name in self.latest:
                value = max(value, getattr(old, name))
            elif name in self.add:
                value += getattr(old, name)
            merged[name] = value
        return merged


def _field(model: type[models.Model], name: str) -> Any:
    return model._meta.get_field(name)


@lru_cache(maxsize=64)
def _statement(
    model: type[models.Model],
    vendor: str,
    quote: Any,
    rules: Rules,
    names: tuple[str, ...],
    returning: tuple[str, ...],
) -> tuple[str, str, str]:
    """Return what stands before, in, and after the rows of values."""
    meta = model._meta
    table = quote(meta.db_table)
    column = {name: quote(_field(model, name).column) for name in (*names, *returning)}
    sets = []
    for name in names:
        if name == rules.key or name in rules.first:
            continue
        new = f"excluded.{column[name]}"
        old = f"{table}.{column[name]}"
        if name in rules.keep:
            new = f"COALESCE({new}, {old})"
        elif name in rules.latest:
            new = f"{_GREATEST[vendor]}({new}, {old})"
        elif name in rules.add:
            new = f"{old} + {new}"
        sets.append(f"{column[name]} = {new}")
    before = f"INSERT INTO {table} ({', '.join(column[name] for name in names)}) VALUES "
    values = f"({', '.join(['%s'] * len(names))})"
    update = f"UPDATE SET {', '.join(sets)}" if sets else "NOTHING"
    after = f" ON CONFLICT ({column[rules.key]}) DO {update}"
    if rules.rank is not None:
        rank = column[rules.rank]
        after += f" WHERE {table}.{rank} <= excluded.{rank}"
    after += f" RETURNING {', '.join(column[name] for name in returning)}"
    return before, values, after


def _prepared(
    model: type[models.Model],
    connection: BaseDatabaseWrapper,
    names: Sequence[str],
    row: Mapping[str, Any],
) -> list[Any]:
    return [_field(model, name).get_db_prep_save(row[name], connection) for name in names]


def converted(
    model: type[models.Model],
    connection: BaseDatabaseWrapper,
    names: Sequence[str],
    rows: Iterable[Sequence[Any]],
) -> list[list[Any]]:
    """Return rows of the driver as values of the model's fields."""
    values = [list(row) for row in rows]
    for place, name in enumerate(names):
        column: Any = _field(model, name).get_col(model._meta.db_table)
        found = connection.ops.get_db_converters(column) + column.get_db_converters(connection)
        for converter in found:
            for row in values:
                row[place] = converter(row[place], column, connection)
    return values


def upsert(
    model: type[models.Model],
    using: str,
    rules: Rules,
    row: Mapping[str, Any],
    returning: Sequence[str] = ("pk",),
) -> list[Any] | None:
    """Write a row unless one of higher rank is stored.

    Args:
        model: The table.
        using: The database.
        rules: What an update does with each field.
        row: A value for each field written; the rest take the column's NULL or default.
        returning: Fields of the stored row that the answer holds.

    Returns:
        Their values; None when the row was refused.
    """
    found = upsert_many(model, using, rules, [row], returning)
    return found[0] if found else None


def upsert_many(
    model: type[models.Model],
    using: str,
    rules: Rules,
    rows: Sequence[Mapping[str, Any]],
    returning: Sequence[str] = ("pk",),
) -> list[list[Any]]:
    """Write rows of different keys and the same fields, those of higher rank stored excepted.

    Returns:
        The fields asked for of each row that was written.
    """
    if not rows:
        return []
    connection = connections[using]
    names = tuple(rows[0])
    primary = model._meta.pk
    assert primary is not None
    wanted = tuple(primary.name if name == "pk" else name for name in returning)
    if connection.vendor not in STATEMENT_VENDORS:
        with transaction.atomic(using=using):
            locked = [lock_and_write(model, using, rules, row) for row in rows]
        return [[getattr(kept, name) for name in wanted] for kept in locked if kept is not None]
    quote = connection.ops.quote_name
    before, values, after = _statement(model, connection.vendor, quote, rules, names, wanted)
    limit = connection.features.max_query_params
    chunk = max(1, min(MAX_ROWS, limit // len(names) if limit else MAX_ROWS))
    written: list[list[Any]] = []
    with connection.cursor() as cursor:
        for start in range(0, len(rows), chunk):
            part = rows[start : start + chunk]
            parameters: list[Any] = []
            for row in part:
                parameters += _prepared(model, connection, names, row)
            cursor.execute(before + ", ".join([values] * len(part)) + after, parameters)
            written += converted(model, connection, wanted, cursor.fetchall())
    return written


def lock_and_write(
    model: type[models.Model], using: str, rules: Rules, row: Mapping[str, Any]
) -> models.Model | None:
    """Do the same with a locked row, where the database has no condition on its upsert.

    Returns:
        The stored row; None when the new one was refused.
    """
    manager = model._base_manager.using(using)
    key = {rules.key: row[rules.key]}
    with transaction.atomic(using=using):
        old = manager.select_for_update().filter(**key).first()
        if old is None:
            try:
                with transaction.atomic(using=using):
                    return manager.create(**row)
            except IntegrityError:
                # Another has made it meanwhile.
                old = manager.select_for_update().filter(**key).first()
                if old is None:
                    raise
        merged = rules.merge(old, row)
        if not merged:
            return None
        manager.filter(pk=old.pk).update(**merged)
        for name, value in merged.items():
            setattr(old, name, value)
        return old
