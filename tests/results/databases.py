"""The databases that the tests of the rows run on."""

from __future__ import annotations

from typing import Any, Final

import pytest
from django.db import connections

from tests.conftest import MARIADB, POSTGRES, mariadb_wanted

__all__ = ["DATABASES", "RowsOnPostgres", "analyze", "on_databases", "planned"]

DATABASES: Final = ["default", POSTGRES, *([MARIADB] if mariadb_wanted() else [])]
"""SQLite (or what stands for it), PostgreSQL, and MariaDB where it is asked for."""

on_databases = pytest.mark.django_db(databases=DATABASES, transaction=True)


class RowsOnPostgres:
    """A router that puts the rows of results on PostgreSQL."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        return POSTGRES if model._meta.app_label == "async_cache_results" else None

    db_for_write = db_for_read


def analyze(using: str, table: str = "async_cache_results_taskresult") -> None:
    """Tell the planner what a table holds."""
    statement = {"mysql": "ANALYZE TABLE"}.get(connections[using].vendor, "ANALYZE")
    with connections[using].cursor() as cursor:
        cursor.execute(f"{statement} {table}")


def planned(using: str, sql: str) -> str:
    """Return the plan of a query that was captured."""
    explain = "EXPLAIN QUERY PLAN" if connections[using].vendor == "sqlite" else "EXPLAIN"
    with connections[using].cursor() as cursor:
        cursor.execute(f"{explain} {sql}")
        return "\n".join(str(row) for row in cursor.fetchall())
