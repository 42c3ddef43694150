"""The subcommands of results, in one list."""

from __future__ import annotations

from typing import Final

from async_cache.management.subcommands import Subcommand
from async_cache.results.management.importing import ImportResults
from async_cache.results.management.purge import Purge
from async_cache.results.management.resize import ResizeTaskId

__all__ = ["SUBCOMMANDS"]

SUBCOMMANDS: Final[tuple[Subcommand, ...]] = (ImportResults(), Purge(), ResizeTaskId())
