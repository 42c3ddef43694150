"""Jobs that every dispatcher, and every worker process, is asked to refresh."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from async_cache import AsyncCacheJob
from async_cache.keys import Call

fetched: Counter[str] = Counter()
"""How often this process has fetched each name."""

batches: list[list[str]] = []
"""The names of each ``fetch_many`` of this process."""

changed = threading.Condition()


def count(name: str) -> int:
    """Note a fetch of ``name``; return how many there were."""
    with changed:
        fetched[name] += 1
        changed.notify_all()
        return fetched[name]


class Counting(AsyncCacheJob[str]):
    """Tells how often it was fetched, and where."""

    ttl = 0

    def fetch(self, name: str) -> str:
        return f"{name} {count(name)} {os.getpid()}"


class Failing(AsyncCacheJob[str]):
    """Fails from the second fetch on."""

    ttl = 0

    def fetch(self, name: str) -> str:
        number = count(name)
        if number > 1:
            raise ZeroDivisionError(f"secret {name}")
        return f"{name} {number}"


class Batched(AsyncCacheJob[str]):
    """Fetches many at once."""

    ttl = 0

    def fetch(self, name: str) -> str:
        return f"{name} {count(name)}"

    def fetch_many(self, calls: Sequence[Call]) -> list[str]:
        batches.append([call.args[0] for call in calls])
        return [self.fetch(*call.args) for call in calls]


class Slow(AsyncCacheJob[str]):
    """Sleeps at its second fetch, in another process than the first's, until a file is there."""

    ttl = 0
    fetch_timeout = 2
    lease = 1

    def fetch(self, directory: str) -> str:
        starts = Path(directory, "starts")
        with starts.open("a") as file:
            file.write(f"{os.getpid()}\n")
        if starts.read_text().count("\n") == 2:
            while not Path(directory, "go").exists():
                time.sleep(0.01)
        return starts.read_text()


class Nested(AsyncCacheJob[str]):
    """Reads another stale value inside of its fetch."""

    ttl = 0

    def fetch(self, name: str) -> str:
        return f"{name} {count(name)} over {Counting().get(name + 'inner')}"
