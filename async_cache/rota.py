"""The jobs of this process that keep warm what is read; who warms them takes them from here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

if TYPE_CHECKING:
    from async_cache.targets import Runtime

__all__ = ["add", "runtimes", "watch"]

_runtimes: Final[WeakSet[Runtime]] = WeakSet()
_watcher: Callable[[], object] | None = None


def add(runtime: Runtime) -> None:
    """Put a job on the rota, for as long as it is in use."""
    _runtimes.add(runtime)
    if _watcher is not None:
        _watcher()


def runtimes() -> list[Runtime]:
    """Return the jobs on the rota."""
    return list(_runtimes)


def watch(watcher: Callable[[], object] | None) -> None:
    """Have a function called whenever a job comes on the rota; None ends that."""
    global _watcher
    _watcher = watcher
