"""The subcommands of the monitor."""

from __future__ import annotations

from typing import Final

from async_cache.management.subcommands import Subcommand
from async_cache.monitor.management.stats import Stats

__all__ = ["SUBCOMMANDS"]

SUBCOMMANDS: Final[tuple[Subcommand, ...]] = (Stats(),)
