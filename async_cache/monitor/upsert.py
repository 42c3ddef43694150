"""Write states of tasks over older ones, never over newer ones, in one statement for many.

What a camera does not know, such as the name of a task whose first events it has not heard, stays
as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from django.db import connections, transaction
from django.db.models.sql import InsertQuery

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import Model

__all__ = ["supports", "write"]

REPLACED: Final = ("state", "hidden")
KEPT: Final = (
    *("name", "args", "kwargs", "eta", "expires", "result", "traceback", "runtime"),
    "worker_id",
)
"""Columns that keep what they hold where nothing is known."""

_READY: Final = "('SUCCESS', 'FAILURE', 'REVOKED', 'REJECTED', 'IGNORED')"


def supports(using: str) -> bool:
    """Tell whether the database has a statement for it."""
    return connections[using].vendor in {"postgresql", "sqlite", "mysql"}


def write(model: type[Model], using: str, rows: Sequence[Any], batch: int) -> None:
    """Write rows of different tasks.

    Args:
        model: Of the rows.
        using: Alias of the database.
        rows: Unsaved ones.
        batch: Rows of one statement at most.
    """
    connection = connections[using]
    fields = [field for field in model._meta.concrete_fields if not field.primary_key]
    suffix = _suffix(connection, model._meta.db_table)
    size = min(batch, connection.ops.bulk_batch_size(fields, rows))
    with transaction.atomic(using=using, savepoint=False), connection.cursor() as cursor:
        for start in range(0, len(rows), size):
            query: Any = InsertQuery(model)
            query.insert_values(fields, rows[start : start + size])
            for sql, params in query.get_compiler(using=using).as_sql():
                cursor.execute(f"{sql} {suffix}", params)


def _suffix(connection: BaseDatabaseWrapper, table: str) -> str:
    quote = connection.ops.quote_name
    mysql = connection.vendor == "mysql"

    def old(name: str) -> str:
        return f"{quote(table)}.{quote(name)}"

    def new(name: str) -> str:
        return f"VALUES({quote(name)})" if mysql else f"EXCLUDED.{quote(name)}"

    # Clocks of hosts differ: an end counts even where it seems to come before the beginning.
    newer = (
        f"({new('tstamp')} >= {old('tstamp')}"
        f" OR ({new('state')} IN {_READY} AND {old('state')} NOT IN {_READY}))"
    )
    values = {name: new(name) for name in REPLACED}
    values |= {name: f"COALESCE({new(name)}, {old(name)})" for name in KEPT}
    retries = new("retries")
    values["retries"] = f"CASE WHEN {retries} = 0 THEN {old('retries')} ELSE {retries} END"
    values["tstamp"] = new("tstamp")
    if mysql:
        # It assigns from left to right. With `tstamp` before `state`, and both last, the condition
        # comes out the same each time.
        names = [*(name for name in values if name not in {"tstamp", "state"}), "tstamp", "state"]
        told = [f"{quote(n)} = IF({newer}, {values[n]}, {old(n)})" for n in names]
        return f"ON DUPLICATE KEY UPDATE {', '.join(told)}"
    told = [f"{quote(name)} = {value}" for name, value in values.items()]
    return f"ON CONFLICT ({quote('task_id')}) DO UPDATE SET {', '.join(told)} WHERE {newer}"
