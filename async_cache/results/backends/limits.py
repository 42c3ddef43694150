"""The limits of a backend that is bound to single tasks beside the app's own."""

from __future__ import annotations

import warnings
from typing import Any

__all__ = ["BackendLimitWarning", "warn_of_limits"]


class BackendLimitWarning(UserWarning):
    """A task bound to a backend of its own ran in a group or a chord of the app's backend."""


_told: set[tuple[str, str]] = set()
_MAX_TOLD = 1_000


def warn_of_limits(backend: Any, request: Any) -> None:
    """Warn, once a task in this process, when group or chord will not find the task's result."""
    if not getattr(request, "group", None) and not getattr(request, "chord", None):
        return
    app_backend = backend.app.backend
    if app_backend is backend or isinstance(app_backend, type(backend)):
        return
    name = str(getattr(request, "task", None) or "a task")
    what = "chord" if getattr(request, "chord", None) else "group"
    if (name, what) in _told or len(_told) >= _MAX_TOLD:
        return
    _told.add((name, what))
    own, apps = type(backend).__name__, type(app_backend).__name__
    warnings.warn(
        f"{name} keeps its result in {own}, and it ran in a {what} of {apps}: the {what} looks for "
        'results in the app\'s backend only. Use result_backend="async-cache-redis" and '
        "persist=True on the task instead.",
        BackendLimitWarning,
        stacklevel=2,
    )
