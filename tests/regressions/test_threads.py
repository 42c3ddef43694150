"""Refreshes in threads."""

from __future__ import annotations

import threading
from typing import Any, ClassVar

from async_cache import AsyncCacheJob
from async_cache.dispatchers.thread import MAX_THREADS
from tests.dispatchers.support import eventually


class Stuck(AsyncCacheJob[str]):
    ttl = 0
    fetch_timeout = 0.2
    opened: ClassVar[threading.Event]
    begun: ClassVar[list[str]]

    def fetch(self, key: str) -> str:
        self.begun.append(key)
        if key.startswith("stuck"):
            assert self.opened.wait(60)
        return f"{key} new"


def test_p5_fetches_that_hang_in_all_threads_do_not_keep_others_from_being_refreshed(
    settings: Any,
) -> None:
    settings.ASYNC_CACHE = {"DISPATCHER": "thread"}
    Stuck.opened, Stuck.begun = threading.Event(), []
    job = Stuck()
    names = [f"stuck{number}" for number in range(MAX_THREADS)]
    for name in [*names, "other"]:
        job.set(f"{name} old", name)
    try:
        for name in names:
            assert job.get(name) == f"{name} old"
        eventually(lambda: len(Stuck.begun) == MAX_THREADS, 10)
        assert job.get("other") == "other old"
        eventually(lambda: job.peek("other") == "other new", 8)
    finally:
        Stuck.opened.set()
        eventually(lambda: all(job.peek(name) == f"{name} new" for name in names), 10)
