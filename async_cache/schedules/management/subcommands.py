"""The subcommands of schedules."""

from __future__ import annotations

from typing import Final

from async_cache.management.subcommands import Subcommand
from async_cache.schedules.management.schedule import Schedule

__all__ = ["SUBCOMMANDS"]

SUBCOMMANDS: Final[tuple[Subcommand, ...]] = (Schedule(),)
