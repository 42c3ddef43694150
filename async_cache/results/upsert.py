"""Write a row, or refuse it for a row of higher rank, in one statement.

SQLite and PostgreSQL compare the ranks in the condition of the update, MariaDB in the value of each
column. Elsewhere (MySQL does not return what it wrote) the row is locked, compared and written in
one transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from django.db import IntegrityError, connections, models, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

__all__ = ["Rules", "converted", "upsert", "upsert_many"]

STATEMENT_VENDORS: Final = frozenset({"postgresql", "sqlite", "mariadb"})
_GREATEST: Final = {"postgresql": "GREATEST", "sqlite": "MAX", "mariadb": "GREATEST"}
MAX_ROWS: Final = 500
"""Rows of one statement, where the database allows so many parameters."""
ARRAYS_FROM: Final = 8
"""Rows from which PostgreSQL gets an array a column; the driver is slow with long statements."""
MAX_CHARACTERS: Final = 2_000_000
"""Text of one statement on MariaDB, which refuses one of 16 MB; a single row may have more."""


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

    def updates(self, names: Sequence[str]) -> bool:
        """Whether an update changes anything."""
        return any(name != self.key and name not in self.first for name in names)

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
    given = "VALUES({})" if vendor == "mariadb" else "excluded.{}"
    sets = {}
    for name in names:
        if name == rules.key or name in rules.first:
            continue
        new = given.format(column[name])
        old = f"{table}.{column[name]}"
        if name in rules.keep:
            new = f"COALESCE({new}, {old})"
        elif name in rules.latest:
            new = f"{_GREATEST[vendor]}({new}, {old})"
        elif name in rules.add:
            new = f"{old} + {new}"
        sets[name] = new
    accepted = ""
    if rules.rank is not None:
        rank = column[rules.rank]
        accepted = f"{table}.{rank} <= {given.format(rank)}"
    before = f"INSERT INTO {table} ({', '.join(column[name] for name in names)}) "
    values = f"({', '.join(['%s'] * len(names))})"
    if vendor == "mariadb":
        after = _on_duplicate_key(table, column, sets, rules, accepted)
    else:
        update = ", ".join(f"{column[name]} = {new}" for name, new in sets.items())
        after = f" ON CONFLICT ({column[rules.key]}) DO "
        after += f"UPDATE SET {update}" if update else "NOTHING"
        after += f" WHERE {accepted}" if accepted else ""
    after += f" RETURNING {', '.join(column[name] for name in returning)}"
    return before, values, after


def _on_duplicate_key(
    table: str, column: Mapping[str, str], sets: Mapping[str, str], rules: Rules, accepted: str
) -> str:
    """Return the update of MariaDB, which has no condition: each column has it instead."""
    # The columns are set in their order, and the condition reads the rank as it is by then.
    order = sorted(sets, key=lambda name: name == rules.rank)
    update = [
        f"{column[name]} = IF({accepted}, {sets[name]}, {table}.{column[name]})"
        if accepted
        else f"{column[name]} = {sets[name]}"
        for name in order
    ]
    return f" ON DUPLICATE KEY UPDATE {', '.join(update)}"


def _arrays(
    model: type[models.Model], connection: BaseDatabaseWrapper, names: Sequence[str]
) -> str:
    """Return what makes rows of an array a column; PostgreSQL."""
    # Without its length: a cast to varchar(n) would cut what does not fit, and say nothing.
    kinds = (_field(model, name).db_type(connection).partition("(")[0] for name in names)
    return f"SELECT * FROM unnest({', '.join(f'%s::{kind}[]' for kind in kinds)})"


def _vendor(connection: BaseDatabaseWrapper) -> str:
    return "mariadb" if getattr(connection, "mysql_is_mariadb", False) else connection.vendor


def _chunks(
    rows: Sequence[list[Any]], most: int, characters: int | None
) -> Iterator[Sequence[list[Any]]]:
    """Yield the rows in parts that fit one statement."""
    if characters is None:
        for start in range(0, len(rows), most):
            yield rows[start : start + most]
        return
    part: list[list[Any]] = []
    size = 0
    for row in rows:
        length = sum(len(value) for value in row if isinstance(value, str))
        if part and (len(part) >= most or size + length > characters):
            yield part
            part, size = [], 0
        part.append(row)
        size += length
    yield part


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
    also: str = "",
) -> list[list[Any]]:
    """Write rows of different keys and the same fields, those of higher rank stored excepted.

    Args:
        model: The table.
        using: The database.
        rules: What an update does with each field.
        rows: A value for each field written, of each row.
        returning: Fields of the stored row that the answer holds.
        also: An expression of PostgreSQL, evaluated as each row is written.

    Returns:
        The fields asked for of each row that was written; the expression's value behind them, or
        None where the database wrote it without the expression.
    """
    if not rows:
        return []
    connection = connections[using]
    names = tuple(rows[0])
    primary = model._meta.pk
    assert primary is not None
    wanted = tuple(primary.name if name == "pk" else name for name in returning)
    vendor = _vendor(connection)
    if vendor not in STATEMENT_VENDORS or (vendor == "mariadb" and not rules.updates(names)):
        with transaction.atomic(using=using):
            locked = [lock_and_write(model, using, rules, row) for row in rows]
        unknown = [None] if also else []
        return [
            [*(getattr(kept, name) for name in wanted), *unknown]
            for kept in locked
            if kept is not None
        ]
    # MariaDB returns refused rows too: a higher rank than the one written tells them.
    ranked = rules.rank if vendor == "mariadb" else None
    asked = wanted if ranked is None else (*wanted, ranked)
    before, values, after = _statement(
        model, vendor, connection.ops.quote_name, rules, names, asked
    )
    if also:
        after += f", {also}"
    limit = connection.features.max_query_params
    most = max(1, min(MAX_ROWS, limit // len(names) if limit else MAX_ROWS))
    prepared = [_prepared(model, connection, names, row) for row in rows]
    written: list[list[Any]] = []
    with connection.cursor() as cursor:
        for part in _chunks(prepared, most, MAX_CHARACTERS if vendor == "mariadb" else None):
            parameters: list[Any]
            if vendor == "postgresql" and len(part) >= ARRAYS_FROM:
                source = _arrays(model, connection, names)
                parameters = [list(column) for column in zip(*part, strict=True)]
            else:
                source = "VALUES " + ", ".join([values] * len(part))
                parameters = [value for row in part for value in row]
            cursor.execute(before + source + after, parameters)
            found = cursor.fetchall()
            if ranked is not None:
                place = names.index(ranked)
                pairs = zip(part, found, strict=True)
                found = [row[:-1] for given, row in pairs if row[-1] == given[place]]
            written += converted(model, connection, wanted, found)
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
                    made = model(**row)
                    # Raw: a time of the last save is the one given.
                    made.save_base(raw=True, force_insert=True, using=using)
                    return made
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
