"""Functions that the tests have real workers call."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

imported: list[str] = []


def wait_for(flag: str) -> str:
    """Return once a file is there."""
    for _ in range(1_000):
        if Path(flag).exists():
            break
        time.sleep(0.02)
    return "seen"


def sleep_in_python(seconds: float) -> None:
    time.sleep(seconds)


async def sleep_in_a_loop(seconds: float) -> None:
    await asyncio.sleep(seconds)


def hear_nothing(seconds: float) -> None:
    """Do not hear the soft time limit, as a call into C that hangs."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    time.sleep(seconds)


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def be_killed_once(flag: str) -> str:
    if not Path(flag).exists():
        Path(flag).touch()
        be_killed()
    return "alive"


class _Watch:
    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        imported.append(name)


def watch_imports() -> None:
    """Note from now on what this process imports."""
    sys.meta_path.insert(0, _Watch)


def imports() -> list[str]:
    return list(imported)


def failing_hook(task: Any) -> None:
    raise LookupError("a secret of the hook")
