"""The cached reads of this project.

async_cache imports the `jobs` module of every installed app, in the web server and in the worker,
so a job defined here is known to both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from django.db.models import Avg, Count, Max

from async_cache import AsyncCacheJob, Call, QuerySetFilterJob, QuerySetGetJob, cached

from .geometry import Point, kilometres, on_sphere
from .models import Airport, Country
from .upstream import ask_for_weather


class AirportWeather(AsyncCacheJob[dict[str, Any]]):
    """The weather at an airport, from a service that takes seconds to answer.

    `fetch` is the slow part. On the first read somebody has to wait for it; after that the worker
    runs it and every read is answered from the cache.

    The settings give this job a ttl of ten seconds and a queue of its own
    (`ASYNC_CACHE["JOBS"]`); they win over what is written here.
    """

    ttl = 60  # seconds until a value turns stale
    grace = 3600  # seconds past that in which it may still be served
    fetch_timeout = 15

    def fetch(self, code: str) -> dict[str, Any]:
        """Ask the weather service. An error keeps the stored value and is tried again later."""
        return ask_for_weather([code])[0]

    def fetch_many(self, calls: Sequence[Call]) -> list[dict[str, Any]]:
        """Ask once for several airports. Optional: it lets `get_many` and the worker batch."""
        return ask_for_weather([call.args[0] for call in calls])


class HubWeather(AirportWeather):
    """The weather at the largest airports, kept warm by the clock: nobody meets an old value.

    Celery beat ticks every `refresh_every` seconds (`demo_site/celery.py`), and a worker fetches
    all of them in one call. That is well within the ttl, so a reader finds them fresh.
    """

    ttl = 15
    refresh_every = 5
    queue = "upstream"
    hubs = ("ATL", "CDG", "DEN", "DFW", "DXB", "IST", "LAX", "ORD")

    def refresh_calls(self) -> Iterator[tuple[str]]:
        """Name the calls to keep warm; a plain list would do, too."""
        for code in self.hubs:
            yield (code,)


# Reads of the ORM need no subclass: give the job a model, or a queryset that says what to join.
# `airport_by_code.get(code="AKL")` returns the instance, country and all, and raises
# Airport.DoesNotExist on a hit as on a miss.
airport_by_code = QuerySetGetJob(Airport.objects.select_related("country"))

# `airports_where.filter(country__code="NZ")` returns a list.
airports_where = QuerySetFilterJob(Airport.objects.select_related("country").order_by("name"))


@cached(ttl=120)
def country_table() -> list[dict[str, Any]]:
    """Count the airports of each country: an aggregation, cached by a decorator."""
    return list(
        Country.objects.annotate(
            number=Count("airports"),
            highest=Max("airports__elevation"),
            mean=Avg("airports__elevation"),
        )
        .order_by("-number", "name")
        .values("code", "name", "number", "highest", "mean")
    )


@cached(ttl=30, fetch_timeout=30)
def remotest_airports(limit: int) -> list[dict[str, Any]]:
    """Find the airports whose nearest other airport is farthest away.

    A report that costs real work: for each of some 7 900 airports, the distance to its neighbours.
    """
    rows = list(
        Airport.objects.order_by("latitude").values_list(
            "code", "name", "country__name", "latitude", "longitude"
        )
    )
    points = [on_sphere(latitude, longitude) for *_, latitude, longitude in rows]
    found = []
    for index, (code, name, country, *_) in enumerate(rows):
        neighbour, chord = _nearest(points, index)
        found.append(
            {
                "code": code,
                "name": name,
                "country": country,
                "neighbour": rows[neighbour][0],
                "km": kilometres(chord),
            }
        )
    found.sort(key=lambda row: row["km"], reverse=True)
    return found[:limit]


def _nearest(points: list[Point], index: int) -> tuple[int, float]:
    """Return the nearest other point and the length of the chord to it.

    The points are sorted by latitude, so the search goes outwards from `index` and ends where the
    difference in height alone exceeds the best distance.
    """
    best, best_index = 4.0, index
    x, y, z = points[index]
    for step in (1, -1):
        other = index + step
        while 0 <= other < len(points):
            a, b, c = points[other]
            rise = (z - c) ** 2
            if rise >= best:
                break
            square = rise + (x - a) ** 2 + (y - b) ** 2
            if square < best:
                best, best_index = square, other
            other += step
    return best_index, math.sqrt(best)
