"""What runs in another process: ``python -m bench.results.child write ours GROUP 0 2500``."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

import django


def write(name: str, group: str, start: int, count: int) -> None:
    """Write so many members when told to."""
    from bench.results.groups import savers

    save = savers()[name]
    save(0, f"first {os.getpid()}")
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(start, start + count):
        save(number, group)
    print("done", flush=True)


def store() -> None:
    """Store the outcome of a task for each line ``how task delay``; answer with the moments."""
    from bench.results.waiting import storers

    ways = storers()
    print("ready", flush=True)
    for line in sys.stdin:
        name, task_id, delay = line.split()
        time.sleep(float(delay))
        before = time.perf_counter()
        ways[name](task_id)
        print(before, time.perf_counter(), flush=True)


def main(arguments: Sequence[str]) -> None:
    """Do what the command line says."""
    django.setup()
    match list(arguments):
        case ["write", name, group, start, count]:
            write(name, group, int(start), int(count))
        case ["store"]:
            store()
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
