"""``manage.py async_cache purge``: delete old results."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connections

from async_cache.management.subcommands import Subcommand
from async_cache.results.conf import get_results_settings
from async_cache.results.purging import BATCH
from async_cache.results.upkeep import purge

__all__ = ["Purge", "shown_progress"]


def shown_progress(command: BaseCommand, verb: str) -> Callable[[int], None] | None:
    """Return what shows a growing number in one line of a terminal; None where there is none."""
    if not command.stdout.isatty():
        return None

    def show(number: int) -> None:
        command.stdout.write(f"\r{verb} {number} rows", ending="")
        command.stdout.flush()

    return show


def _ages(texts: list[str]) -> dict[str, float]:
    ages = {}
    for text in texts:
        state, equals, seconds = text.partition("=")
        try:
            ages[state] = float(seconds)
        except ValueError:
            ages[state] = -1
        if not equals or not state or not 0 <= ages[state] < float("inf"):
            raise CommandError(f"--keep {text!r} is no STATE=SECONDS: --keep SUCCESS=86400.")
    return ages


class Purge(Subcommand):
    """Delete old results."""

    name = "purge"
    help = "delete old results: in batches, by the age that each state is kept"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options; they win over the settings."""
        parser.add_argument(
            "--keep",
            action="append",
            metavar="STATE=SECONDS",
            help="how long a state is kept; * for the others. Repeatable. "
            'Default: ASYNC_CACHE["RESULTS"]["RETENTION"], else EXPIRES for all',
        )
        parser.add_argument("--group-cap", type=int, metavar="N", help="rows that a group keeps")
        parser.add_argument("--seconds", type=float, help="begin no batch after this time")
        parser.add_argument("--batch", type=int, default=BATCH, help="rows of one transaction")
        parser.add_argument(
            "--database",
            metavar="ALIAS",
            choices=tuple(connections),
            help="else the routers decide",
        )

    def run(self, command: BaseCommand, options: Mapping[str, Any]) -> None:
        """Purge, and say how many rows went."""
        if options["batch"] < 1:
            raise CommandError("--batch must be 1 or more.")
        if options["group_cap"] is not None and options["group_cap"] < 1:
            raise CommandError("--group-cap must be 1 or more.")
        retention = None
        if options["keep"]:
            retention = {**get_results_settings().retention, **_ages(options["keep"])}
        show = shown_progress(command, "deleted")
        purged = purge(
            retention,
            group_cap=options["group_cap"],
            seconds=options["seconds"],
            batch=options["batch"],
            using=options["database"],
            progress=show,
        )
        if show is not None:
            command.stdout.write("")
        rest = "" if purged.finished else "; more are left: the time is over"
        command.stdout.write(f"Deleted {purged.deleted} rows{rest}.")
