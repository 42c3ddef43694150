"""Background threads: daemons, started when first needed, gone after a fork, ended at exit."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from django.db import connections

__all__ = ["after_fork", "close_connections", "start", "supported"]


def supported() -> bool:
    """Tell whether a thread would run: uWSGI starts without threads unless told otherwise."""
    uwsgi: Any = sys.modules.get("uwsgi")
    if uwsgi is None:
        return True
    options = getattr(uwsgi, "opt", {})
    names = ("enable-threads", "threads", b"enable-threads", b"threads")
    return any(options.get(name) not in (None, False, "0", b"0") for name in names)


def start(name: str, target: Callable[[], None]) -> threading.Thread | None:
    """Start a daemon thread, or return None where threads cannot be started.

    Args:
        name: Shown by debuggers; prefixed with the package's name.
        target: What it runs.
    """
    if not supported():
        return None
    thread = threading.Thread(target=target, name=f"async_cache.{name}", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        # No threads on this platform, no more of them, or the interpreter is ending.
        return None
    return thread


def after_fork(reset: Callable[[], None]) -> None:
    """Call ``reset`` in every child process: its threads are gone and its locks may be held."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=reset)


def close_connections() -> None:
    """Close the database connections that this thread has opened."""
    for connection in connections.all(initialized_only=True):
        connection.close()
