"""A directory for one run: database, logs, the broker's files. Gone when the run ends.

Each run has its own, so several demos can run at the same time. A run that was killed cannot
remove its directory; the next run finds it by its lock, which the kernel released, and does.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "run-"


@contextmanager
def run_directory(base: Path) -> Iterator[Path]:
    """Create a directory below `base` for the length of the block."""
    base.mkdir(parents=True, exist_ok=True)
    (base / ".gitignore").write_text("*\n")
    # One run at a time looks for leftovers and makes its own directory: without this lock a run
    # could take another's for a leftover before that one has locked it.
    with (base / "lock").open("w") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        remove_leftovers(base)
        run = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        held = (run / "lock").open("w")
        fcntl.flock(held, fcntl.LOCK_EX)
    try:
        yield run
    finally:
        shutil.rmtree(run, ignore_errors=True)
        held.close()


def remove_leftovers(base: Path) -> list[Path]:
    """Remove the directories of runs that no longer live, and return their paths."""
    removed = []
    for run in sorted(base.glob(f"{PREFIX}*")):
        with suppress(FileNotFoundError), (run / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(run, ignore_errors=True)
            removed.append(run)
    return removed
