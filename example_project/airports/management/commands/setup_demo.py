"""Make the database ready in one go: tables, the cache's table where one is used, the data."""

from __future__ import annotations

from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    """Migrate, create the cache's table, load the airports."""

    help = "Migrate, create the cache table (DatabaseCache only) and load the airports."

    def handle(self, *args: Any, **options: Any) -> None:
        """Do it."""
        call_command("migrate", verbosity=0, stdout=self.stdout)
        call_command("createcachetable", stdout=self.stdout)
        call_command("load_airports", stdout=self.stdout)
