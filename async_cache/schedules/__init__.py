"""Keep values warm by the clock: scheduled refreshes, and calls that are read refreshed in time.

Names are handed out lazily: Celery is imported only where a schedule is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from async_cache.schedules.plans import Plan, all_plans
    from async_cache.schedules.static import beat_schedule

__all__ = ["Plan", "all_plans", "beat_schedule"]

_PLACES: Final = {"Plan": "plans", "beat_schedule": "static", "all_plans": "plans"}


def __getattr__(name: str) -> Any:
    try:
        module = _PLACES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
