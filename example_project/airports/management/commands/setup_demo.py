"""Make the database ready in one go: tables, the cache's table where one is used, a user, the data.

DEMO_PASSWORD in the environment makes the user `demo` of the admin, with this password.
"""

from __future__ import annotations

import os
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    """Migrate, create the cache's table, make the user of the admin, load the airports."""

    help = "Migrate, create the cache table (DatabaseCache only), a user, and load the airports."

    def handle(self, *args: Any, **options: Any) -> None:
        """Do it."""
        call_command("migrate", verbosity=0, stdout=self.stdout)
        call_command("createcachetable", stdout=self.stdout)
        password = os.environ.get("DEMO_PASSWORD")
        users = get_user_model().objects
        if password and not users.filter(username="demo").exists():
            users.create_superuser("demo", password=password)
        call_command("load_airports", stdout=self.stdout)
