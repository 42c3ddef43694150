"""Jobs: what is part of a key, how they may be written, how they are copied."""

from __future__ import annotations

import asyncio
import copy
import pickle
import sys
from typing import Any

import pytest
import redis

from async_cache import MISSING, AsyncCacheJob, QuerySetGetJob, cached, signals
from async_cache.jobs import registry, running
from async_cache.messages import open_message, seal_message
from async_cache.secret_keys import get_ring
from tests.app.models import Author


class NamesakeJob(QuerySetGetJob[Author]):
    """Has a constructor argument of its own, which decides what is found."""

    ttl = 60
    model = Author

    def __init__(self, tenant: str = "", source: Any = None) -> None:
        super().__init__(source)
        self.tenant = tenant

    def get_queryset(self) -> Any:
        return super().get_queryset().filter(name=self.tenant)


@pytest.mark.django_db
@pytest.mark.parametrize("named", [True, False])
def test_p11_a_queryset_job_s_own_constructor_arguments_are_part_of_the_key(named: bool) -> None:
    for name in ("Ada", "Eve"):
        Author.objects.create(name=name)

    def job(tenant: str) -> Any:
        return NamesakeJob(tenant=tenant) if named else NamesakeJob(tenant)

    assert job("Ada").get(active=True).name == "Ada"
    assert job("Eve").get(active=True).name == "Eve"


def test_a_queryset_job_s_own_constructor_arguments_travel() -> None:
    runtime = NamesakeJob("Ada", source=Author.objects.filter(active=True))._runtime
    text = seal_message(runtime.message((), (), 0.0, 1e12), get_ring())
    made = running._runtime(open_message(text, get_ring()))
    assert made.job.tenant == "Ada"
    assert made.keyspace.entry("x") == runtime.keyspace.entry("x")
    address = runtime.address((), {"pk": 1})
    assert made.address((), {"pk": 1}).entry == address.entry


class Static(AsyncCacheJob[Any]):
    ttl = 60

    @staticmethod
    def fetch(first: str, second: int = 1) -> Any:
        return first, second


class OfClass(AsyncCacheJob[Any]):
    ttl = 60

    @classmethod
    def fetch(cls, first: str, second: int = 1) -> Any:
        return first, second


@pytest.mark.parametrize("job", [Static, OfClass])
def test_fetch_may_be_a_static_or_class_method(job: type[AsyncCacheJob[Any]]) -> None:
    assert job().get("a", 2) == ("a", 2)
    assert job().get("a", second=2) == ("a", 2)
    assert job().get("a") == ("a", 1)


class CallOf(AsyncCacheJob[Any]):
    ttl = 60

    def fetch(self, call: int) -> int:
        return call


def test_an_argument_may_be_named_call_in_the_async_verbs() -> None:
    async def work() -> Any:
        await CallOf().aset(7, call=1)
        await CallOf().ainvalidate(call=2)
        return await CallOf().apeek(call=1), await CallOf().apeek(call=2)

    assert asyncio.run(work()) == (7, MISSING)


def test_a_job_that_has_been_used_can_be_copied_and_pickled() -> None:
    job = CallOf(ttl=5)
    job.get(1)
    for twin in (copy.copy(job), copy.deepcopy(job), pickle.loads(pickle.dumps(job))):
        assert twin.peek(1) == 1
        assert twin._runtime.policy.ttl == 5


@cached(ttl=60)
def doubled(number: int) -> int:
    return 2 * number


def test_a_cached_function_is_copied_and_pickled_by_name() -> None:
    assert doubled(2) == 4
    for twin in (copy.copy(doubled), copy.deepcopy(doubled), pickle.loads(pickle.dumps(doubled))):
        assert twin is doubled


class Capped(AsyncCacheJob[int]):
    ttl = 60
    max_keys = 1

    def fetch(self, number: int) -> int:
        return number


def test_a_set_past_max_keys_is_announced() -> None:
    seen: list[Any] = []

    def note(sender: object, job: str, max_keys: int, **_: object) -> None:
        seen.append((job, max_keys))

    signals.call_uncached.connect(note)
    try:
        Capped().set(1, 1)
        assert seen == []
        Capped().set(2, 2)
    finally:
        signals.call_uncached.disconnect(note)
    assert seen == [(Capped().job_name, 1)]


class Listed(AsyncCacheJob[Any]):
    ttl = 60

    def fetch(self, items: list[int], more: dict[str, list[int]] | None = None) -> Any:
        answer = list(items), {name: list(part) for name, part in (more or {}).items()}
        items.clear()  # as a careless fetch may
        return answer


def test_p11_a_list_that_is_changed_after_the_call_changes_no_key_s_value() -> None:
    items, part = [1], [2]
    assert Listed().get(items, {"a": part}) == ([1], {"a": [2]})
    items.append(3)
    part.append(4)
    Listed().delete([1], {"a": [2]})
    assert Listed().get([1], {"a": [2]}) == ([1], {"a": [2]})
    assert Listed().refresh([1], {"a": [2]}) == ([1], {"a": [2]})


class Renamed(AsyncCacheJob[int]):
    """Keeps a name that no longer says where it is."""

    name = "shop.views.Former"
    ttl = 60

    def fetch(self, number: int) -> int:
        return number


def test_a_worker_finds_a_job_whose_name_does_not_tell_its_module(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ASYNC_CACHE = {"JOB_MODULES": ["tests.regressions"]}
    runtime = Renamed()._runtime
    text = seal_message(runtime.message((), (), 0.0, 1e12), get_ring())
    # As in a worker that has not met its module.
    monkeypatch.delitem(registry._jobs, "shop.views.Former")
    monkeypatch.delitem(sys.modules, __name__)
    made = running._runtime(open_message(text, get_ring()))
    assert made.keyspace.entry("x") == runtime.keyspace.entry("x")


@pytest.mark.parametrize("verb", ["explain", "refresh_later"])
def test_p7_a_lease_that_is_not_ours_is_shown_without_an_error(
    settings: Any, redis_caches: str, verb: str
) -> None:
    settings.ASYNC_CACHE = {"CACHE": "redis", "DISPATCHER": "thread"}
    runtime = Renamed()._runtime
    key = runtime.store.exchanges.key(runtime.address((1,), {}).lease)  # type: ignore[attr-defined]
    with redis.Redis.from_url(redis_caches) as client:
        client.set(key, b"2:0:99999999999999:x")
    assert getattr(Renamed(), verb)(1).task_id == "78000000-0000-0000-0000-000000000000"
