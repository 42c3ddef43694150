"""A process of racers for the test of elections: 8 threads that read the same stale keys."""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

import django

EDGES = 1000
THREADS = 8


def main() -> None:
    """Race over every edge; print which ones this process has won."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    django.setup()
    from async_cache.dispatchers import get_dispatcher
    from tests.jobs.stale import Edge

    won: list[str] = []
    shelf: Any = get_dispatcher("tests.jobs.support.Shelf")
    meet = threading.Barrier(THREADS)
    wrong: list[object] = []

    def race() -> None:
        for edge in range(EDGES):
            if edge % 10 == 0 and meet.wait(60) == 0:
                # The other process is as far: both are told to go on by the parent.
                print("ready", flush=True)
                sys.stdin.readline()
            if edge % 10 == 0:
                meet.wait(60)
            value = Edge().get(edge)
            if value != edge:
                wrong.append(value)

    threads = [threading.Thread(target=race) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [refresh.message.items[0].digest for refresh in shelf.messages]
    print(json.dumps({"won": won, "wrong": len(wrong)}), flush=True)


if __name__ == "__main__":
    main()
