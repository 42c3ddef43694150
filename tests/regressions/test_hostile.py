"""What could be moved, asked for or filled from outside."""

from __future__ import annotations

import sys
import tracemalloc
import zlib
from typing import Any

import pytest

from async_cache import MISSING, AsyncCacheJob
from async_cache.entry import COMPRESSED, new_header
from async_cache.exceptions import EntryRejected
from async_cache.schedules.tasks import run_tick
from async_cache.serializers import load_value


class Moved(AsyncCacheJob[str]):
    ttl = 600

    def fetch(self) -> str:
        return "fetched"


def test_an_entry_is_bound_to_its_alias(settings: Any) -> None:
    # Same prefix and version: the seal fitted before.
    backend = settings.CACHES["default"]
    settings.CACHES = {**settings.CACHES, "beside": {**backend, "LOCATION": "beside"}}
    source, target = Moved(cache="beside")._runtime, Moved()._runtime
    Moved(cache="beside").set("another's")
    address = source.address((), {})
    names = [address.entry, *address.stamp_names(())]
    for name, raw in zip(names, source.store.read(source.store.prepare(names)), strict=True):
        assert raw is not None
        target.store.put([(name, raw, 600.0)])
    assert Moved(cache="beside").peek() == "another's"
    assert Moved().peek() is MISSING


@pytest.mark.parametrize(
    "args", [("this.c",), ("tests.app.nowhere.Job",), (f"{__name__}.Moved", [[]])]
)
@pytest.mark.django_db
def test_a_tick_that_nobody_has_declared_is_dropped(args: tuple[Any, ...]) -> None:
    before = set(sys.modules)
    assert run_tick.apply(args=args).get() == {"dropped": 1}
    assert "this" not in set(sys.modules) - before


def test_what_unpacks_to_too_much_is_left_early() -> None:
    cap = 4 << 20
    header = new_header(
        entry_id=b"",
        codec=1,
        fetch_started=0,
        fresh_until=0,
        dead_at=0,
        fetch_seconds=0,
        stamps=b"",
        flags=COMPRESSED,
    )
    raw = zlib.compress(bytes(64 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(EntryRejected, match="more than"):
            load_value(raw, header, cap)
        assert tracemalloc.get_traced_memory()[1] < 2 * cap
    finally:
        tracemalloc.stop()
