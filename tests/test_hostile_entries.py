"""Whatever bytes stand where an entry should: `get` raises nothing and returns no wrong value."""

from __future__ import annotations

import pickle
from random import Random
from typing import Any

import pytest
from django.core.cache import caches

from async_cache import AsyncCacheJob
from async_cache.stores.base import Store

COUNT = 10_000
PER_STORE = {"default": COUNT, "redis": 2_000}


class Hostile(AsyncCacheJob[Any]):
    name = "hostile.job"
    ttl = 600
    jitter = 0
    tags = ("hostile",)
    version = 1

    def fetch(self, key: int) -> Any:
        return "fetched", key


class Other(Hostile):
    """Another version of the same job, whose entries are no entries of it."""

    name = "hostile.other"
    version = 2


class Executed(AssertionError):
    pass


class Bomb:
    """Bytes that raise when unpickled without their seal being looked at."""

    def __reduce__(self) -> Any:
        return _explode, ()


def _explode() -> None:
    raise Executed


def hostile(random: Random, own: bytes, foreign: list[bytes]) -> bytes:
    """Return bytes made from entries: mutated, cut, spliced, moved, or nothing of the kind."""
    raw = bytearray(own)
    other = random.choice(foreign)
    at = random.randrange(len(raw))
    match random.randrange(8):
        case 0:
            for _ in range(random.randint(1, 8)):
                raw[random.randrange(len(raw))] ^= 1 << random.randrange(8)
        case 1:
            del raw[at:]
        case 2:
            del raw[at : at + random.randint(1, 40)]
        case 3:
            raw[at:at] = random.randbytes(random.randint(1, 40))
        case 4:
            raw[at:] = other[at:]
        case 5:
            return other
        case 6:
            return random.randbytes(random.randint(0, 400))
        case _:
            return pickle.dumps(random.choice([Bomb(), ("wrong", 0), None]))
    return bytes(raw)


@pytest.mark.parametrize("alias", ["default", "redis"])
def test_get_survives_bad_entries(alias: str, request: pytest.FixtureRequest) -> None:
    if alias == "redis":
        request.getfixturevalue("redis_caches")
    random = Random(alias)
    job, other = Hostile(cache=alias), Other(cache=alias)
    runtime = job._runtime
    store: Store = runtime.store
    keys = range(10)

    def address(number: int) -> Any:
        return runtime.address((number,), {})

    def entry(of: Any, number: int) -> bytes:
        of.set(("stored", number), number)
        found = of._runtime.address((number,), {})
        (raw,) = store.read(store.prepare([found.entry]))
        assert raw is not None
        return raw

    own = {number: entry(job, number) for number in keys}
    foreign = {number: [own[n] for n in keys if n != number] for number in keys}
    for number in keys:
        foreign[number].append(entry(other, number))
    rejected = 0
    for turn in range(PER_STORE[alias]):
        number = turn % 10
        raw = hostile(random, own[number], foreign[number])
        store.put([(address(number).entry, raw, 600.0)])
        answer = job.get(number)
        # Bits flipped twice may give back the entry as it was.
        assert answer == (("stored", number) if raw == own[number] else ("fetched", number))
        rejected += raw != own[number]
    assert rejected > PER_STORE[alias] * 0.99


def test_get_survives_values_that_are_no_bytes() -> None:
    job = Hostile()
    address = job._runtime.address((1,), {})
    for value in (1, "text", None, [b"x"], {"a": 1}, object, bytearray(b"x" * 300), 1.5, True):
        caches["default"].set(address.entry, value, 600)
        assert job.get(1) == ("fetched", 1)
