"""What the worker does for the page of a result group: one slow report for each country.

`async_task` calls any function that has a dotted path. These know nothing of Celery or groups.
"""

from __future__ import annotations

import math
import time
from typing import Any

from django.db.models import Count

from .geometry import kilometres, on_sphere
from .models import Airport, Country

PAUSE = 0.4  # seconds; stands for what a report of your own waits for

Flight = tuple[int, str, str]  # kilometres, from, to


class NoReport(Exception):
    """A report could not be made."""


def largest_countries(number: int) -> list[Country]:
    """Return the countries that have most airports."""
    countries: Any = Country.objects.annotate(number=Count("airports"))
    return list(countries.order_by("-number", "name")[:number])


def longest_flight(code: str, fails: bool = False) -> Flight:
    """Find the two airports of a country that are farthest apart, by comparing all pairs.

    The answer is a tuple, and is a tuple again when it is read: results keep their types.
    """
    time.sleep(PAUSE)
    if fails:
        raise NoReport("told to fail")
    rows = Airport.objects.filter(country__code=code).values_list("code", "latitude", "longitude")
    points = [(name, *on_sphere(latitude, longitude)) for name, latitude, longitude in rows]
    best, start, end = -1.0, "", ""
    for index, (first, x, y, z) in enumerate(points):
        for second, a, b, c in points[index + 1 :]:
            square = (x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2
            if square > best:
                best, start, end = square, first, second
    return kilometres(math.sqrt(max(best, 0.0))), start, end
