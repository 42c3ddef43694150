"""Entries: bytes that were sealed here and are laid out otherwise are a miss."""

from __future__ import annotations

from typing import Any

import pytest
from asgiref.sync import async_to_sync

from async_cache import MISSING, AsyncCacheJob
from async_cache.entry import MAC_SIZE

META = b'[null,null,null,"x"]'


class Tagged(AsyncCacheJob[Any]):
    """Its entries name a tag, so the header says something of the value."""

    ttl = 600
    tags = ("x",)
    dispatcher = "immediate"

    def fetch(self) -> str:
        return "fetched"


# What raised in `get` before: the seal was right, and what the header says was decoded unchecked.
@pytest.mark.parametrize(
    "meta",
    [b"\xff" * 20, b'["cut", null, "x"   ', b'{"a": "an object"}  ', b"[1,2,3,4,5,6,7,8,9 ]"],
)
def test_a_header_that_says_no_tags_is_a_miss(meta: bytes) -> None:
    assert len(meta) == len(META)
    job = Tagged()
    job.set("stored")
    runtime, address = job._runtime, job._runtime.address((), {})
    (raw,) = runtime.store.read(runtime.store.prepare([address.entry]))
    assert raw is not None
    body = raw[MAC_SIZE:].replace(META, meta)
    assert body != raw[MAC_SIZE:]
    for read in (job.peek, job.get, async_to_sync(job.aget), job.refresh):
        runtime.store.put(
            [(address.entry, runtime.ring.entry_mac(body, address.place) + body, 600.0)]
        )
        assert job.explain().tags == ()
        assert read() == (MISSING if read == job.peek else "fetched")
