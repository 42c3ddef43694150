"""Run the tests on every Python of this machine with every Django that it can run.

    python scripts/matrix.py [--list] [--python 3.12] [--django 6.0] [-- PYTEST ARGUMENTS]

Each pair has an environment of its own in ``.venvs``, kept for the next run.
"""

from __future__ import annotations

import argparse
import glob
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts import bootstrap  # noqa: E402

PYTHONS = ("3.11", "3.12", "3.13")
SERVERS = ("redis", "postgres", "memcached", "rabbitmq", "mariadb")
WITHOUT_BEAT = {"6.1"}  # django-celery-beat cannot be installed beside it
DJANGOS = {"5.2": "3.11", "6.0": "3.12", "6.1": "3.12"}  # Django: the oldest Python it runs on


def key(version: str) -> tuple[int, ...]:
    """Make versions compare by number."""
    return tuple(int(part) for part in version.split("."))


def find_python(version: str) -> str | None:
    """Return an interpreter of a version: on the path, or among those of pyenv and uv."""
    home = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    candidates = [shutil.which(f"python{version}"), shutil.which("python3")]
    candidates += sorted(glob.glob(f"{home}/versions/{version}*/bin/python{version}"), reverse=True)
    candidates += glob.glob(
        os.path.expanduser(f"~/.local/share/uv/python/cpython-{version}*/bin/python{version}")
    )
    check = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    for candidate in filter(None, candidates):
        found = subprocess.run(
            [candidate, "-c", check], capture_output=True, text=True, check=False
        )
        if found.stdout.strip() == version:
            return candidate
    return None


def pairs(pythons: list[str], djangos: list[str]) -> list[tuple[str, str]]:
    """List the pairs that go together."""
    return [(p, d) for p in pythons for d in djangos if key(p) >= key(DJANGOS[d])]


def prepare(python: str, django: str) -> Path:
    """Make the environment of a pair, or bring it up to date."""
    venv = ROOT / ".venvs" / f"python{python}-django{django}"
    interpreter = find_python(python)
    assert interpreter is not None
    bootstrap.create(venv, interpreter)
    groups = ["test"] if django in WITHOUT_BEAT else ["test", "schedules"]
    bootstrap.install(venv, groups, [f"Django~={django}.0"])
    run = [str(venv / "bin" / "python"), "scripts/servers.py", "install", *SERVERS]
    subprocess.run(run, cwd=ROOT, check=True)
    return venv


def test(venv: Path, arguments: list[str]) -> int:
    """Run pytest in an environment."""
    environment = {"REQUIRE_SERVERS": "redis,postgres,mariadb", **os.environ}
    command = [str(venv / "bin" / "python"), "-m", "pytest", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def main() -> int:
    """Run all pairs, then print one line for each; fail when one failed or none ran."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--python", choices=PYTHONS, action="append")
    parser.add_argument("--django", choices=DJANGOS, action="append")
    parser.add_argument("arguments", nargs="*")
    options = parser.parse_args()
    wanted = options.python or list(PYTHONS)
    found = [version for version in wanted if find_python(version)]
    for version in set(wanted) - set(found):
        print(f"Python {version}: not on this machine")
    chosen = pairs(found, options.django or list(DJANGOS))
    if options.list:
        print("\n".join(f"Python {python}, Django {django}" for python, django in chosen))
        return 0
    lines, failed = [], not chosen
    for python, django in chosen:
        print(f"== Python {python}, Django {django}", flush=True)
        began = time.monotonic()
        code = test(prepare(python, django), options.arguments)
        failed = failed or code != 0
        word = "passed" if code == 0 else f"FAILED ({code})"
        took = f"{time.monotonic() - began:.0f} s"
        lines.append(f"Python {python}, Django {django}: {word} in {took}")
    print("\n".join(lines))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
