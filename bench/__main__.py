"""Measure all figures and print them beside their targets.

    python -m bench              everything, some minutes
    python -m bench --quick      fewer rounds, small sizes: a look, not a result
    python -m bench --only hit   the scenes whose name begins so
    python -m bench --json       for programs

A figure that misses its target does not fail the command: machines differ. It ends with 1 when
something could not be measured: no server, or no steady run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import psutil

from bench.figures import Figure, Report, table
from bench.rounds import TOLERANCE, is_steady
from bench.scene import WITHOUT_HIREDIS

BACKENDS: Final = (
    "LocMemCache",
    "FileBasedCache",
    "DatabaseCache (SQLite)",
    "PyMemcacheCache",
    "django-redis",
)
SIZES: Final = ("100 B", "2 KB of rows")
PACKAGES: Final = (
    "Django",
    "redis",
    "hiredis",
    "django-redis",
    "django-cacheback",
    "pymemcache",
    "celery",
    "django-celery-results",
    "django-q2",
    "psycopg",
)
SECONDS: Final = 1200


@dataclass(frozen=True, slots=True)
class Scene:
    """What to run and how long.

    Attributes:
        name: ``kind`` or ``kind:argument``, as `bench.scene` takes it.
        rounds: How many, and how many in a quick look.
        hiredis: Whether hiredis may be used where it is installed.
        size: Members or rows, and how many in a quick look; of a scene that has so many.
    """

    name: str
    rounds: tuple[int, int] = (80, 15)
    hiredis: bool = True
    size: tuple[int, int] = (0, 0)

    @property
    def title(self) -> str:
        """What the table calls it."""
        return self.name if self.hiredis else f"{self.name}, without hiredis"


def all_scenes() -> Iterator[Scene]:
    """Return every scene, those with a target first."""
    for size in SIZES:
        yield Scene(f"hit:{size}")
        yield Scene(f"hit:{size}", hiredis=False)
    yield Scene("stale")
    for alias in BACKENDS:
        yield Scene(f"backend:{alias}")
    yield Scene("import", rounds=(25, 7))
    yield Scene("coroutines")
    yield Scene("many")
    yield Scene("refreshes")
    yield Scene("counting", rounds=(200, 30))
    yield Scene("camera:SQLite", size=(60_000, 6_000))
    yield Scene("camera:PostgreSQL", size=(60_000, 6_000))
    yield Scene("lists:SQLite", rounds=(15, 3), size=(500_000, 4_000))
    yield Scene("lists:PostgreSQL", rounds=(15, 3), size=(500_000, 4_000))
    yield Scene("results:cached group", rounds=(15, 2), size=(10_000, 300))
    yield Scene("results:writers", rounds=(3, 1), size=(10_000, 400))
    yield Scene("results:waiting", rounds=(25, 1))
    yield Scene("results:rows", rounds=(60, 5), size=(2_000, 200))
    yield Scene("results:rows on disk", rounds=(60, 5), size=(2_000, 200))
    yield Scene("results:large tables", rounds=(15, 3), size=(600_000, 4_000))
    yield Scene("results:celery group", rounds=(60, 3))


def run_once(scene: Scene, quick: bool) -> Report:
    """Run a scene in a fresh interpreter."""
    command = [sys.executable, "-m", "bench.scene", scene.name]
    environment = dict(os.environ)
    if not scene.hiredis:
        environment[WITHOUT_HIREDIS] = "1"
    done = subprocess.run(
        [*command, "--rounds", str(scene.rounds[quick]), "--size", str(scene.size[quick])],
        env=environment,
        timeout=SECONDS,
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no output"]
        return Report(scene.title, problem=f"not measured: {last[0]}")
    found = json.loads(done.stdout.splitlines()[-1])
    found["figures"] = tuple(Figure(**one) for one in found["figures"])
    return replace(Report(**found), scene=scene.title)


def run(scene: Scene, quick: bool, tries: int) -> Report:
    """Run a scene until a run is steady; past so many tries, keep the best and say so."""
    best: Report | None = None
    for number in range(1, tries + 1):
        report = replace(run_once(scene, quick), runs=number)
        if report.pair is None or is_steady(report.pair):
            return report
        if best is None or best.pair is None or abs(report.pair - 1) < abs(best.pair - 1):
            best = report
    assert best is not None
    problem = f"unsteady: the A/A pair was off by over {TOLERANCE:.0%} in each of {tries} runs"
    return replace(best, problem=problem)


def machine() -> dict[str, str]:
    """Say what this was measured on."""
    found = {
        "machine": f"{platform.machine()}, {psutil.cpu_count()} cores, {platform.system()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load": " ".join(f"{one:.2f}" for one in os.getloadavg()),
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the figures.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--only", default="", metavar="NAME", help="scenes whose name begins so")
    parser.add_argument("--tries", type=int, help="runs at most for a steady one (5; quick: 1)")
    options = parser.parse_args(arguments)
    tries = options.tries or (1 if options.quick else 5)
    reports = []
    for scene in all_scenes():
        if scene.name.startswith(options.only):
            print(f"measuring {scene.title} ...", file=sys.stderr, flush=True)
            reports.append(run(scene, options.quick, tries))
    if options.json:
        found = {"on": machine(), "reports": [asdict(report) for report in reports]}
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(f"{name}: {what}" for name, what in machine().items()), end="\n\n")
        print(table(reports))
    return int(any(report.problem for report in reports) or not reports)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
