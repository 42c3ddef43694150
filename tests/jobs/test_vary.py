"""What a fetch depends on besides its arguments is part of the key and active in the worker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from django.utils import timezone, translation

from async_cache import AsyncCacheJob, Vary
from tests.jobs.support import Caller, Shelf

_tenant: ContextVar[str] = ContextVar("tenant", default="none")


@contextmanager
def as_tenant(name: str) -> Iterator[None]:
    token = _tenant.set(name)
    try:
        yield
    finally:
        _tenant.reset(token)


tenant = Vary(_tenant.get, as_tenant)


class Greeting(AsyncCacheJob[str]):
    ttl = 0
    vary = ("language", "timezone", "tests.jobs.test_vary.tenant")

    def fetch(self, name: str) -> str:
        zone = timezone.get_current_timezone_name()
        return f"{name} {translation.get_language()} {zone} {_tenant.get()}"


def test_each_context_has_its_value(alias: str) -> None:
    job = Greeting()
    assert job.get("bob") == "bob en UTC none"
    with translation.override("de"), timezone.override("Europe/Paris"), as_tenant("acme"):
        assert job.get("bob") == "bob de Europe/Paris acme"
        assert job.explain("bob").size > 0
    assert job.get("bob") == "bob en UTC none"


def test_it_is_active_again_in_the_worker(alias: str, shelf: Shelf) -> None:
    job = Greeting()
    with translation.override("de"), timezone.override("Europe/Paris"), as_tenant("acme"):
        job.get("bob")
        job.get("bob")
        before = job.explain("bob").key
    translation.activate("fr")
    try:
        shelf.run_all()
    finally:
        translation.deactivate()
    assert _tenant.get() == "none", "and gone after it"
    with translation.override("de"), timezone.override("Europe/Paris"), as_tenant("acme"):
        assert job.explain("bob").key == before
        assert job.peek("bob") == "bob de Europe/Paris acme"
        shelf.messages.clear()


def test_get_many_and_aget(alias: str) -> None:
    job = Greeting()
    with translation.override("de"):
        assert job.get_many([("bob",)]) == ["bob de UTC none"]
        assert asyncio.run(job.aget("bob")) == "bob de UTC none"
    assert job.get_many([("bob",)]) == ["bob en UTC none"]


def test_invalidate_reaches_the_context_in_force(alias: str) -> None:
    job = Greeting(ttl=60)
    job.get("bob")
    with translation.override("de"):
        job.get("bob")
        job.invalidate("bob")
        assert job.explain("bob").status.value == "stale"
    assert job.explain("bob").status.value == "fresh"


def test_without_vary_the_context_is_no_part_of_the_key(local: str) -> None:
    class Same(AsyncCacheJob[str]):
        def fetch(self) -> str:
            return str(translation.get_language())

    assert Same().get() == "en"
    with translation.override("de"):
        assert Same().get() == "en"
    assert Caller(Same().get).result() == "en"
