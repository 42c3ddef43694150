"""One scene in a process of its own: ``python -m bench.scene hit:100 B --rounds 60``.

Prints the report as JSON. Everything runs on one core: this process, and the servers that it
starts after it has bound itself to it.
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

from bench.figures import Report
from bench.imports import imports
from bench.rounds import Run
from bench.timing import pin, quietest_core
from tests.servers import MemcachedServer, RedisServer, ServerUnavailable

__all__ = ["WITHOUT_HIREDIS", "main"]

WITHOUT_HIREDIS: Final = "BENCH_WITHOUT_HIREDIS"
"""Environment variable: hide hiredis from everybody in this process."""


def measured(name: str, rounds: int) -> Report:
    """Run a scene, ``kind`` or ``kind:argument``, and report."""
    kind, _, argument = name.partition(":")
    pin(quietest_core())
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        if kind == "import":
            return _report(name, *imports(rounds, directory))
        os.environ["BENCH_DIRECTORY"] = directory
        try:
            if argument == "PyMemcacheCache":
                os.environ["BENCH_MEMCACHED"] = stack.enter_context(MemcachedServer()).url
            elif kind != "backend" or argument == "django-redis":
                os.environ["BENCH_REDIS_URL"] = stack.enter_context(RedisServer()).url
        except ServerUnavailable as error:
            # Memcached comes in no wheel; without Redis there is little to measure.
            if argument == "PyMemcacheCache":
                return Report(name, note=f"skipped: {error}")
            return Report(name, problem=f"not measured: {error}")
        return _of_django(name, kind, argument, rounds)


def _of_django(name: str, kind: str, argument: str, rounds: int) -> Report:
    os.environ["DJANGO_SETTINGS_MODULE"] = "bench.settings"
    import django

    django.setup()
    from bench import scenes

    match kind:
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


def _report(name: str, run: Run, figures: tuple[object, ...]) -> Report:
    return Report(name, figures, run.pair)  # type: ignore[arg-type]


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m bench.scene")
    parser.add_argument("scene")
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args(arguments)
    if os.environ.get(WITHOUT_HIREDIS):
        sys.modules["hiredis"] = None  # type: ignore[assignment]
    print(json.dumps(asdict(measured(options.scene, options.rounds))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
