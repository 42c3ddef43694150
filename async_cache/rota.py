"""The jobs of this process that keep warm what is read; who warms them takes them from here."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from async_cache import threads

if TYPE_CHECKING:
    from async_cache.targets import Runtime

__all__ = ["add", "runtimes", "watch"]

_runtimes: Final[WeakSet[Runtime]] = WeakSet()
_watcher: Callable[[], object] | None = None
_lock = threading.Lock()


def add(runtime: Runtime) -> None:
    """Put a job on the rota, for as long as it is in use."""
    with _lock:
        _runtimes.add(runtime)
    if _watcher is not None:
        _watcher()


def runtimes() -> list[Runtime]:
    """Return the jobs on the rota."""
    with _lock:
        return list(_runtimes)


def watch(watcher: Callable[[], object] | None) -> None:
    """Have a function called whenever a job comes on the rota; None ends that."""
    global _watcher
    _watcher = watcher


def _start_anew() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held it at the fork


threads.after_fork(_start_anew)
