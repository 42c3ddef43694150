# ruff: noqa: D102  (the contract, in base.py, documents the operations)
"""Refresh at once, in the thread of the reader: for tests and scripts."""

from __future__ import annotations

from async_cache import worker
from async_cache.dispatchers.base import Dispatcher, Refresh

__all__ = ["ImmediateDispatcher"]


class ImmediateDispatcher(Dispatcher):
    """Runs each refresh before ``get`` returns; the reader still gets the stale value."""

    name = "immediate"

    @property
    def inline(self) -> bool:
        return True

    @property
    def needs_worker(self) -> bool:
        return False

    def dispatch(self, refresh: Refresh) -> None:
        worker.run_message(refresh.message)
