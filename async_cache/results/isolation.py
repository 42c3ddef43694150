"""What one transaction is shown of what others commit."""

from __future__ import annotations

from typing import Final

from django.db.backends.base.base import BaseDatabaseWrapper

__all__ = ["TxIsolationWarning", "isolation_level"]

_ISOLATION: Final = {
    "postgresql": "SHOW transaction_isolation",
    "mysql": "SELECT @@transaction_isolation",
    "mariadb": "SELECT @@tx_isolation",
}


class TxIsolationWarning(UserWarning):
    """A poll repeated inside one transaction would be shown the same old rows."""


def isolation_level(connection: BaseDatabaseWrapper) -> str:
    """Return the isolation level in lower case, asked of the database; empty where it has none."""
    vendor = "mariadb" if getattr(connection, "mysql_is_mariadb", False) else connection.vendor
    if vendor not in _ISOLATION:
        return ""
    with connection.cursor() as cursor:
        cursor.execute(_ISOLATION[vendor])
        row = cursor.fetchone()
    return str(row[0]).replace("-", " ").lower() if row else ""
