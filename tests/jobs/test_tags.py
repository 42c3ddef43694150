"""Tags: declared, computed from the arguments, decided by the value; P4 for each of them."""

from __future__ import annotations

from typing import Any

import pytest

from async_cache import AsyncCacheJob, FetchContext, Status, invalidate_tags
from async_cache.testing import freeze
from tests.jobs.support import Caller, Gate, Shelf


class Article(AsyncCacheJob[Any]):
    ttl = 600
    jitter = 0.0
    tags = ("site",)
    found: tuple[str, ...] = ("author:1",)
    calls = 0
    gate: Gate | None = None

    def fetch(self, number: int, *, ctx: FetchContext) -> Any:
        Article.calls += 1
        found = Article.found
        if Article.gate is not None:
            Article.gate()
        ctx.add_tags(*found)
        return Article.calls


class Computed(AsyncCacheJob[str]):
    jitter = 0.0

    def fetch(self, user: int) -> str:
        return "value"

    def tags(self, user: int) -> tuple[str, ...]:
        return (f"user:{user}",)


@pytest.fixture(autouse=True)
def _reset() -> None:
    Article.calls = 0
    Article.gate = None
    Article.found = ("author:1",)


@pytest.mark.parametrize("tag", ["site", "author:1"])
def test_a_tag_makes_every_value_that_carries_it_stale(each_alias: str, tag: str) -> None:
    job = Article()
    job.get(1)
    job.get(2)
    assert job.explain(1).tags == ("site", "author:1")
    invalidate_tags(tag, "unrelated")
    assert job.explain(1).status is job.explain(2).status is Status.STALE
    assert job.get(1) == 1, "soft: still served"
    assert job.get(1) == 3
    assert job.explain(1).status is Status.FRESH


def test_another_tag_does_not(alias: str) -> None:
    job = Article()
    job.get(1)
    invalidate_tags("author:2", "author:11", "sit")
    assert job.explain(1).status is Status.FRESH
    invalidate_tags()


def test_tags_computed_from_the_arguments(alias: str) -> None:
    job = Computed()
    job.get(1)
    job.get(2)
    invalidate_tags("user:1")
    assert job.explain(1).status is Status.STALE
    assert job.explain(2).status is Status.FRESH


def test_a_process_that_does_not_know_the_tags_reads_them(alias: str) -> None:
    """The map of a key's tags is this process's; another has none."""
    Article().get(1)
    invalidate_tags("author:1")
    article: Any = Article
    article.version = 1  # makes every runtime again, as in another process
    try:
        assert Article().explain(1).status is Status.STALE
        assert Article().get(1) == 1
        assert Article().get(1) == 2
        article.version = 1
        assert Article().get_many([(1,)]) == [2]
    finally:
        del article.version


@pytest.mark.parametrize("tag", ["site", "author:1", "author:2"])
def test_p4_a_tag_invalidated_during_the_fetch_is_not_hidden(each_alias: str, tag: str) -> None:
    """Of a tag that only the value decides no stamp was read before: the epoch tells."""
    job = Article()
    job.get(1)
    Article.found = ("author:1", "author:2")
    gate = Article.gate = Gate()
    caller = Caller(lambda: job.refresh(1))
    assert gate.entered.wait(10)
    invalidate_tags(tag)
    gate.opened.set()
    assert caller.result() == 2
    assert job.explain(1).status is Status.STALE


def test_tags_that_change_with_the_value(alias: str) -> None:
    job = Article()
    job.get(1)
    Article.found = ("author:2",)
    job.refresh(1)
    invalidate_tags("author:1")
    assert job.explain(1).status is Status.FRESH
    invalidate_tags("author:2")
    assert job.explain(1).status is Status.STALE


def test_set_carries_the_declared_tags(alias: str) -> None:
    Computed().set("given", 1)
    invalidate_tags("user:1")
    assert Computed().explain(1).status is Status.STALE


def test_tags_are_global_to_an_alias_and_to_no_other(redis_caches: str, settings: Any) -> None:
    settings.ASYNC_CACHE = {"CACHE": "default", "DISPATCHER": "immediate"}
    here, there = Computed(), Computed(cache="redis")
    here.get(1)
    there.get(1)
    invalidate_tags("user:1", cache="redis")
    assert here.explain(1).status is Status.FRESH
    assert there.explain(1).status is Status.STALE


def test_a_bad_tag_is_named(local: str) -> None:
    with pytest.raises(TypeError, match="tag"):
        invalidate_tags(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="tag"):
        invalidate_tags("")


def test_p1_an_entry_whose_tag_stamp_was_lost_is_a_miss(alias: str) -> None:
    from async_cache.keys import tag_stamp
    from async_cache.stores.registry import get_store

    job = Article()
    job.get(1)
    get_store(alias).remove([tag_stamp("ac", "author:1")])
    assert job.explain(1).status is Status.MISS
    assert job.get(1) == 2


def test_a_message_finds_the_tags_of_the_value(alias: str, shelf: Shelf) -> None:
    """The worker judges what it finds by all its tags: a fresh one makes the message void."""
    job = Article()
    with freeze() as clock:
        job.get(1)
        clock.advance(601)
        job.get(1)
        job.refresh(1)
        assert shelf.run() == {"found": 1}
        job.refresh_later(1)
        invalidate_tags("author:1")
        assert shelf.run() == {"fetched": 1}
