"""Load the airports that have an IATA code, and the names of their countries.

Airports come from the package `airportsdata` (MIT licence), names of countries from the table
iso3166.tab of the time zone database (public domain), which the package `tzdata` carries.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import airportsdata
from django.core.management.base import BaseCommand
from django.db import transaction

from airports.models import Airport, Country


def country_names() -> dict[str, str]:
    """Return the English name of each ISO 3166-1 code."""
    names = {"XK": "Kosovo"}  # in use, but not in the standard
    text = (files("tzdata") / "zoneinfo" / "iso3166.tab").read_text(encoding="utf-8")
    for line in text.splitlines():
        if line and not line.startswith("#"):
            code, _, name = line.partition("\t")
            names[code] = name
    return names


class Command(BaseCommand):
    """Load airports and countries. Running it again changes nothing."""

    help = "Load airports and countries from the packages airportsdata and tzdata."

    def handle(self, *args: Any, **options: Any) -> None:
        """Do it."""
        rows = airportsdata.load("IATA")
        names = country_names()
        codes = sorted({row["country"] for row in rows.values()})
        with transaction.atomic():
            Country.objects.bulk_create(
                [Country(code=code, name=names.get(code, code)) for code in codes],
                ignore_conflicts=True,
            )
            countries = Country.objects.in_bulk(field_name="code")
            Airport.objects.bulk_create(
                [
                    Airport(
                        code=code,
                        icao=row["icao"],
                        name=row["name"],
                        city=row["city"],
                        region=row["subd"],
                        country=countries[row["country"]],
                        elevation=round(row["elevation"]),
                        latitude=row["lat"],
                        longitude=row["lon"],
                    )
                    for code, row in sorted(rows.items())
                ],
                batch_size=500,
                ignore_conflicts=True,
            )
        self.stdout.write(f"{Airport.objects.count()} airports in {len(codes)} countries")
