"""The functions of groups once more, their rows on PostgreSQL (and on MariaDB where asked for)."""

# ruff: noqa: F403  (the suite is imported whole)

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from async_cache.results import apart
from async_cache.results.models import TaskResult
from tests.results.databases import DATABASES, on_databases
from tests.results.test_groups import *
from tests.results.test_groups import _where as _where
from tests.results.test_groups import save, test_the_migrations_know_the_proxy

# The same wherever the rows are.
del test_the_migrations_know_the_proxy

pytestmark = [on_databases, pytest.mark.parametrize("cached", [0])]


class Router:
    """Puts the rows of results on the database `alias`."""

    alias = "postgres"

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        return self.alias if model._meta.app_label == "async_cache_results" else None

    db_for_write = db_for_read


@pytest.fixture(autouse=True, params=DATABASES[1:])
def server(
    request: pytest.FixtureRequest, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    settings.DATABASE_ROUTERS = [f"{__name__}.Router"]
    monkeypatch.setattr(Router, "alias", request.param)
    yield str(request.param)
    apart.close()


def test_the_rows_are_where_the_router_says(server: str) -> None:
    save("a", 1)
    assert TaskResult.objects.using(server).filter(group="g").count() == 1
    assert TaskResult.objects.using("default").count() == 0
