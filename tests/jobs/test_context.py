"""What a ``fetch`` that asks for ``ctx`` receives and decides."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from async_cache import MISSING, NOT_MODIFIED, AsyncCacheJob, FetchContext, Status
from async_cache.testing import freeze
from tests.jobs.support import Caller, Gate, Shelf


class Document(AsyncCacheJob[Any]):
    """Asks the source conditionally."""

    ttl = 60
    jitter = 0.0
    body: Any = None
    tag = "v1"
    asked: list[tuple[Any, str | None, str | None]]

    def fetch(self, url: str, *, ctx: FetchContext) -> Any:
        self.asked.append((ctx.stale, ctx.etag, ctx.last_modified))
        if ctx.etag == Document.tag and ctx.stale is not MISSING:
            return NOT_MODIFIED
        ctx.etag = Document.tag
        ctx.last_modified = "Mon, 05 Jan 2026 10:00:00 GMT"
        return Document.body


@pytest.fixture(autouse=True)
def _reset() -> None:
    Document.asked = []
    Document.tag, Document.body = "v1", {"a": (1,)}


def test_not_modified_keeps_the_value_and_makes_it_fresh(each_alias: str) -> None:
    job = Document()
    with freeze() as clock:
        for _ in range(3):
            assert job.get("u") == {"a": (1,)}
            clock.advance(61)
            job.get("u")
            assert job.explain("u").status is Status.FRESH
        date = "Mon, 05 Jan 2026 10:00:00 GMT"
        assert Document.asked[0] == (MISSING, None, None)
        assert Document.asked[1:] == [({"a": (1,)}, "v1", date)] * (len(Document.asked) - 1)
        Document.tag, Document.body = "v2", "changed"
        clock.advance(61)
        job.get("u")
        assert job.get("u") == "changed"


def test_an_invalidated_value_is_still_there_to_compare_with(alias: str) -> None:
    job = Document()
    job.get("u")
    job.invalidate("u")
    job.get("u")
    assert Document.asked[1][1] == "v1"
    assert job.explain("u").status is Status.FRESH
    job.delete("u")
    job.get("u")
    assert Document.asked[2] == (MISSING, None, None), "a deleted one is not"


def test_not_modified_without_a_stale_value_is_a_mistake_that_is_named(alias: str) -> None:
    class Wrong(AsyncCacheJob[Any]):
        def fetch(self) -> Any:
            return NOT_MODIFIED

    with pytest.raises(TypeError, match="NOT_MODIFIED"):
        Wrong().get()


def test_do_not_store(alias: str) -> None:
    class Once(AsyncCacheJob[int]):
        calls = 0
        gate: Gate | None = None

        def fetch(self, *, ctx: FetchContext) -> int:
            Once.calls += 1
            if Once.gate is not None:
                Once.gate()
            ctx.do_not_store()
            return Once.calls

    job = Once()
    assert job.get() == 1
    assert job.get() == 2
    assert job.peek() is MISSING
    assert job.explain().refresh is None
    gate = Once.gate = Gate()
    first = Caller(job.get)
    assert gate.entered.wait(10)
    second = Caller(job.get).blocked()
    gate.opened.set()
    assert first.result() == second.result() == 3, "whoever waits receives it"


def test_do_not_store_keeps_the_stale_value(alias: str, shelf: Shelf) -> None:
    class Picky(AsyncCacheJob[int]):
        ttl = 60
        jitter = 0.0
        calls = 0

        def fetch(self, *, ctx: FetchContext) -> int:
            Picky.calls += 1
            if Picky.calls > 1:
                ctx.do_not_store()
            return Picky.calls

    job = Picky()
    with freeze() as clock:
        job.get()
        clock.advance(61)
        job.get()
        shelf.run_all()
        assert job.get() == 1


def test_set_ttl_wins(alias: str) -> None:
    class Chosen(AsyncCacheJob[int]):
        ttl = 60
        jitter = 0.0

        def fetch(self, seconds: Any, *, ctx: FetchContext) -> int:
            ctx.set_ttl(None if seconds is None else dt.timedelta(seconds=seconds))
            return 1

    job = Chosen()
    with freeze():
        job.get(5)
        assert job.explain(5).fresh_for == pytest.approx(5)
        job.get(None)
        assert job.explain(None).status is Status.FRESH
        assert job.explain(None).fresh_for is None


def test_ctx_is_no_part_of_the_call(local: str) -> None:
    with pytest.raises(TypeError, match="ctx"):
        Document().get("u", ctx=FetchContext())


def test_a_coroutine_may_ask_for_it(alias: str) -> None:
    class Awaited(AsyncCacheJob[Any]):
        ttl = 0

        async def fetch(self, *, ctx: FetchContext) -> Any:
            if ctx.stale is not MISSING:
                return ctx.stale + 1
            return 1

    job = Awaited()
    assert [job.get() for _ in range(3)] == [1, 1, 2]
