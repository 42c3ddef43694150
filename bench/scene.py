"""One scene in a process of its own: ``python -m bench.scene hit:100 B --rounds 60``.

Prints the report as JSON. Everything runs on one core: this process, and the servers that it
starts after it has bound itself to it. The writers of a group are let loose on all cores.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Final

from bench.figures import Figure, Report
from bench.imports import imports
from bench.rounds import Run
from bench.timing import pin, quietest_core
from tests.servers import MemcachedServer, PostgresServer, RedisServer, ServerUnavailable

__all__ = ["WITHOUT_HIREDIS", "main"]

WITHOUT_HIREDIS: Final = "BENCH_WITHOUT_HIREDIS"
"""Environment variable: hide hiredis from everybody in this process."""

WITHOUT_POSTGRES: Final = frozenset({"cached group", "writers"})
"""Scenes of the results that need Redis alone."""

DURABLE: Final = frozenset({"rows on disk", "large tables"})
"""Scenes whose PostgreSQL waits for the disk, as it does by itself; that of the tests does not."""
ON_DISK: Final = ("fsync=on", "synchronous_commit=on", "full_page_writes=on")


def measured(name: str, rounds: int, size: int = 0) -> Report:
    """Run a scene, ``kind`` or ``kind:argument``, and report.

    Args:
        name: The scene.
        rounds: How often each case is timed.
        size: Members or rows, of a scene that has so many.
    """
    kind, _, argument = name.partition(":")
    pin(quietest_core())
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        if kind == "import":
            return _report(name, *imports(rounds, directory))
        os.environ["BENCH_DIRECTORY"] = directory
        try:
            if kind in ("camera", "lists") and argument == "PostgreSQL":
                os.environ["BENCH_POSTGRES_URL"] = stack.enter_context(PostgresServer(*ON_DISK)).url
            if kind == "results" and argument not in WITHOUT_POSTGRES:
                options = ON_DISK if argument in DURABLE else ()
                server = PostgresServer("shared_buffers=128MB", *options)
                os.environ["BENCH_POSTGRES_URL"] = stack.enter_context(server).url
            if argument == "PyMemcacheCache":
                os.environ["BENCH_MEMCACHED"] = stack.enter_context(MemcachedServer()).url
            elif kind != "backend" or argument == "django-redis":
                os.environ["BENCH_REDIS_URL"] = stack.enter_context(RedisServer()).url
        except ServerUnavailable as error:
            # Memcached comes in no wheel; without Redis there is little to measure.
            if argument == "PyMemcacheCache":
                return Report(name, note=f"skipped: {error}")
            return Report(name, problem=f"not measured: {error}")
        if kind == "results":
            return _of_results(name, argument, rounds, size)
        if kind in ("camera", "lists"):
            return _of_monitor(name, kind, rounds, size)
        return _of_django(name, kind, argument, rounds)


def _of_results(name: str, argument: str, rounds: int, size: int) -> Report:
    os.environ["DJANGO_SETTINGS_MODULE"] = "bench.results.settings"
    import django
    from django.core.management import call_command

    django.setup()
    if argument not in WITHOUT_POSTGRES:
        call_command("migrate", verbosity=0)
    from bench.results import groups, joins, rows, tables, waiting

    match argument:
        case "cached group":
            return _report(name, *groups.cached_group(rounds, size))
        case "writers":
            return _report(name, *groups.writers(rounds, size))
        case "waiting":
            return _report(name, *waiting.waiting(rounds))
        case "rows" | "rows on disk":
            return _report(name, *rows.rows(rounds, size))
        case "large tables":
            return _report(name, *tables.tables(rounds, size))
        case _:
            return _report(name, *joins.joins(rounds))


def _of_monitor(name: str, kind: str, rounds: int, size: int) -> Report:
    os.environ["DJANGO_SETTINGS_MODULE"] = "bench.monitor.settings"
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
    from bench.monitor.camera import camera
    from bench.monitor.lists import lists

    if kind == "lists":
        return _report(name, *lists(rounds, size))
    return _report(name, *camera(size))


def _of_django(name: str, kind: str, argument: str, rounds: int) -> Report:
    os.environ["DJANGO_SETTINGS_MODULE"] = "bench.settings"
    import django

    django.setup()
    from bench import scenes
    from bench.monitor.tally import tally

    match kind:
        case "counting":
            return _report(name, *tally(rounds))
        case "hit":
            return _report(name, *scenes.hit(rounds, argument))
        case "backend":
            return _report(name, *scenes.backend(rounds, argument))
        case "stale":
            return _report(name, *scenes.stale(rounds))
        case "coroutines":
            return _report(name, *scenes.coroutines(rounds))
        case "many":
            return _report(name, *scenes.many(rounds))
        case _:
            return _report(name, *scenes.refreshes(rounds))


def _report(name: str, run: Run | None, figures: tuple[Figure, ...]) -> Report:
    return Report(name, figures, None if run is None else run.pair)


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m bench.scene")
    parser.add_argument("scene")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--size", type=int, default=1000)
    options = parser.parse_args(arguments)
    if os.environ.get(WITHOUT_HIREDIS):
        sys.modules["hiredis"] = None  # type: ignore[assignment]
    print(json.dumps(asdict(measured(options.scene, options.rounds, options.size))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
