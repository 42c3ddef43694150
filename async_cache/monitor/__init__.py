"""See what the core does: statistics of each job, workers and tasks in the database.

Names are handed out lazily, since models cannot be imported before the apps are ready.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from async_cache.monitor.camera import Camera
    from async_cache.monitor.snapshots import asnapshot, snapshot
    from async_cache.monitor.statistics import JobStatistics

__all__ = ["Camera", "JobStatistics", "asnapshot", "snapshot"]

_PLACES: Final = {
    "Camera": "camera",
    "JobStatistics": "statistics",
    "asnapshot": "snapshots",
    "snapshot": "snapshots",
}


def __getattr__(name: str) -> Any:
    try:
        module = _PLACES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
