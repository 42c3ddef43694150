"""Distances on the earth, taken as a ball."""

from __future__ import annotations

import math

EARTH_RADIUS = 6371.0  # km

Point = tuple[float, float, float]


def on_sphere(latitude: float, longitude: float) -> Point:
    """Return a position as a point on the unit sphere."""
    phi, theta = math.radians(latitude), math.radians(longitude)
    return (math.cos(phi) * math.cos(theta), math.cos(phi) * math.sin(theta), math.sin(phi))


def kilometres(chord: float) -> int:
    """Return the way along the surface between two points, given the straight line."""
    return round(2 * EARTH_RADIUS * math.asin(min(1.0, chord / 2)))
