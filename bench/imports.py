"""How long imports take, in fresh interpreters over a Django that is set up."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Final

from bench.figures import Figure
from bench.rounds import BASE, TWIN, Run
from bench.timing import Case, measure

__all__ = ["imports"]

LIMIT_MS: Final = 15.0

# A Django as a request finds it: models loaded, the handler imported.
_SCRIPT: Final = """\
import sys, time
from django.conf import settings
settings.configure(
    SECRET_KEY="bench",
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes"],
    CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
)
import django
django.setup()
import django.core.handlers.wsgi
started = time.perf_counter()
%s
taken = time.perf_counter() - started
foreign = sorted({"celery", "kombu", "redis", "django_redis"} & set(sys.modules))
print(taken, *foreign)
"""

_STATEMENTS: Final = {
    BASE: "from async_cache import AsyncCacheJob",
    "package": "import async_cache",
    "names": "from async_cache import *",
}


def imports(rounds: int, directory: str) -> tuple[Run, tuple[Figure, ...]]:
    """Time imports; compiled files go to the directory.

    Raises:
        AssertionError: An import brought Celery, or another client of a broker or cache.
    """
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": directory}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def case(statement: str) -> Case:
        def block(loops: int) -> float:
            command = [sys.executable, "-c", _SCRIPT % statement]
            output = subprocess.run(
                command, env=environment, check=True, capture_output=True, text=True
            ).stdout.split()
            if output[1:]:
                raise AssertionError(f"{statement!r} imports {', '.join(output[1:])}")
            return float(output[0]) * loops

        return block

    cases = {name: case(statement) for name, statement in _STATEMENTS.items()}
    run = measure(cases, rounds, block=0)
    return run, (
        Figure("import async_cache, over Django", run.seconds("package") * 1e3, "ms", LIMIT_MS),
        Figure(f"{_STATEMENTS[BASE]}, over Django", run.seconds(BASE) * 1e3, "ms", LIMIT_MS),
        Figure(f"{_STATEMENTS['names']}, over Django", run.seconds("names") * 1e3, "ms"),
        Figure("the best round of the second", min(run.least(BASE), run.least(TWIN)) * 1e3, "ms"),
    )
