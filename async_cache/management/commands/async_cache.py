"""``manage.py async_cache``: look at jobs and act on them."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from async_cache.exceptions import AsyncCacheError
from async_cache.management import jobs
from async_cache.management.subcommands import register_subcommand, subcommands

__all__ = ["Command"]

for _subcommand in jobs.SUBCOMMANDS:
    register_subcommand(_subcommand)


class Command(BaseCommand):
    """Hand over to the subcommand that is asked for."""

    help = "Lists the jobs, explains what is cached, and refreshes, invalidates or deletes it."
    # To clear a cache must be possible while a check of something else fails.
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Add a parser for each registered subcommand."""
        words = parser.add_subparsers(dest="subcommand", metavar="subcommand", required=True)
        for name, subcommand in sorted(subcommands().items()):
            child = words.add_parser(name, help=subcommand.help, description=subcommand.help)
            subcommand.add_arguments(child)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the subcommand.

        Raises:
            CommandError: It could not be done; the message says why and what to do.
        """
        try:
            subcommands()[options["subcommand"]].run(self, options)
        except AsyncCacheError as error:
            raise CommandError(f"{type(error).__name__}: {error}") from error
