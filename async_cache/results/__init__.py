"""The result store: every outcome in one shared place, with groups.

The names below are imported when first used: models cannot be imported before the apps are ready.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from async_cache.results.calls import AsyncTask, aasync_task, async_task
    from async_cache.results.exceptions import NoResult, TaskFailed, TaskTimeout
    from async_cache.results.groups import (
        acount_group,
        adelete_group,
        afetch,
        afetch_group,
        aget,
        aresult,
        aresult_group,
        count_group,
        delete_group,
        fetch,
        fetch_group,
        get,
        result,
        result_group,
    )
    from async_cache.results.layers import get_layer
    from async_cache.results.proxies import Task
    from async_cache.results.records import NO_RECORD, Record

__all__ = [
    "NO_RECORD",
    "AsyncTask",
    "NoResult",
    "Record",
    "Task",
    "TaskFailed",
    "TaskTimeout",
    "aasync_task",
    "acount_group",
    "adelete_group",
    "afetch",
    "afetch_group",
    "aget",
    "aresult",
    "aresult_group",
    "async_task",
    "count_group",
    "delete_group",
    "fetch",
    "fetch_group",
    "get",
    "get_layer",
    "result",
    "result_group",
]

# In the order of their imports: the first two need neither apps nor models.
_MODULES = ("exceptions", "records", "layers", "proxies", "groups", "calls")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _MODULES:
            found = import_module(f"{__name__}.{module}")
            if name in found.__all__:
                value = globals()[name] = getattr(found, name)
                return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
