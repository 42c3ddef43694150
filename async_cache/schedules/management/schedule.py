"""``manage.py async_cache schedule``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import IntegrityError

from async_cache.management.subcommands import Subcommand

__all__ = ["Schedule"]


class Schedule(Subcommand):
    """Show what jobs are refreshed by the clock, and write it for Celery beat."""

    name = "schedule"
    help = "show which jobs are refreshed by the clock, and write it for Celery beat"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare what is written, and where."""
        parser.add_argument(
            "--write",
            choices=("static", "database"),
            help="static: a Python module of entries for app.conf.beat_schedule; database: rows "
            "of django-celery-beat",
        )
        parser.add_argument(
            "--output", metavar="FILE", help="where the module goes; without it, to the terminal"
        )
        parser.add_argument("--dry-run", action="store_true", help="only say what would change")

    def run(self, command: BaseCommand, options: Mapping[str, Any]) -> None:
        """Show or write the schedule."""
        # Here, since they import Celery, which is optional.
        from async_cache.schedules.plans import all_plans

        if options["output"] and options["write"] != "static":
            raise CommandError("--output goes with --write static.")
        found = all_plans()
        # All is looked at before anything is written.
        counted = [(plan, _count(plan)) for plan in found]
        if options["write"] == "static":
            _write_static(command, options, found)
        elif options["write"] == "database":
            _write_rows(command, options, found)
        else:
            for plan, number in counted:
                calls = "1 call" if number == 1 else f"{number} calls"
                command.stdout.write(f"{plan.job}  {plan.described}  {calls}")
            if not counted:
                command.stdout.write(
                    "No job has a schedule. Set refresh_every or refresh_schedule on one."
                )


def _count(plan: Any) -> int:
    """Return how many calls a plan keeps warm, once each of them is found to have a key."""
    runtime = plan.instance._runtime
    return sum(1 for args, kwargs in plan.calls() if runtime.address(args, kwargs))


def _write_static(command: BaseCommand, options: Mapping[str, Any], found: Sequence[Any]) -> None:
    from async_cache.schedules.static import as_module

    text = as_module(found)
    if options["output"] is None:
        command.stdout.write(text, ending="")
        return
    path = Path(options["output"])
    if path.exists() and path.read_text() == text:
        command.stdout.write(f"{path}: unchanged")
        return
    if options["dry_run"]:
        command.stdout.write(f"{path}: would be written, {len(found)} entries")
        return
    path.write_text(text)
    command.stdout.write(f"{path}: written, {len(found)} entries")


def _write_rows(command: BaseCommand, options: Mapping[str, Any], found: Sequence[Any]) -> None:
    # The models of the app say what to do where it is not installed.
    from async_cache.schedules import models

    _ = models.PeriodicTask
    from async_cache.schedules.database.rows import write

    try:
        changes = write(found, dry_run=options["dry_run"])
    except ValidationError as error:
        raise CommandError(" ".join(error.messages)) from error
    except IntegrityError as error:
        raise CommandError(
            "Another has written the schedule at the same time, and nothing was written here. "
            "Run this again."
        ) from error
    would = "would be " if options["dry_run"] else ""
    for change in changes:
        command.stdout.write(f"{would}{change.what}: {change.name}  {change.detail}")
    if not changes:
        command.stdout.write(f"unchanged, {len(found)} entries")
