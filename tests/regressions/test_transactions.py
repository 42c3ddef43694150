"""What a transaction read, and what another invalidated meanwhile."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.db import connections, transaction

from async_cache import AsyncCacheJob, invalidate_tags
from async_cache.entry import Status
from tests.app.models import Author

ALIAS = "postgres"


class NameOf(AsyncCacheJob[str]):
    ttl = 600

    def fetch(self, pk: int, *, ctx: Any) -> str:
        ctx.add_tags("authors")
        return Author.objects.using(ALIAS).get(pk=pk).name


@pytest.mark.django_db(databases=["default", ALIAS], transaction=True)
def test_p4_a_tag_invalidated_between_fetch_and_commit_is_not_hidden(
    settings: Any, redis_caches: str
) -> None:
    settings.ASYNC_CACHE = {"CACHE": "redis", "DISPATCHER": "thread"}
    pk = Author.objects.using(ALIAS).create(name="before").pk
    invalidate_tags("authors")

    def rename() -> None:
        try:
            Author.objects.using(ALIAS).filter(pk=pk).update(name="after")
            invalidate_tags("authors")
        finally:
            connections.close_all()

    with transaction.atomic(using=ALIAS):
        assert NameOf().get(pk) == "before"
        other = threading.Thread(target=rename)
        other.start()
        other.join()
    found = NameOf().peek(pk)
    assert found != "before" or NameOf().explain(pk).status is not Status.FRESH
