"""The databases that the tests of the rows run on."""

from __future__ import annotations

from typing import Final

import pytest

from tests.conftest import MARIADB, POSTGRES, mariadb_wanted

__all__ = ["DATABASES", "on_databases"]

DATABASES: Final = ["default", POSTGRES, *([MARIADB] if mariadb_wanted() else [])]
"""SQLite (or what stands for it), PostgreSQL, and MariaDB where it is asked for."""

on_databases = pytest.mark.django_db(databases=DATABASES, transaction=True)
