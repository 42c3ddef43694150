"""How much of the suite runs, and the figures it reaches.

``FAULTS=full`` (``make faults``) runs every check with the numbers of the table; without it each
check runs small, as a part of ``make test``. ``FAULTS=soak`` (``make soak``) runs the long one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

__all__ = ["SOAK", "WHOLE", "Figure", "count", "few", "judge", "patience", "reached"]

WHOLE: Final = os.environ.get("FAULTS") == "full"
SOAK: Final = os.environ.get("FAULTS") == "soak"


@dataclass(frozen=True)
class Figure:
    """A figure that a check has reached, and what it must not exceed."""

    check: str
    name: str
    value: float
    bound: float


reached: Final[list[Figure]] = []
"""Printed at the end of the whole suite; what is on the page of the docs comes from there."""


_broken: list[None] = []


def count(small: int, whole: int) -> int:
    """Return how many of something this run takes; few where a check is to fail."""
    return whole if WHOLE and not _broken else small


def patience(seconds: float) -> float:
    """Return how long a check waits for what must come: not for long where it is to fail."""
    return min(seconds, 6.0) if _broken else seconds


@contextmanager
def few() -> Iterator[None]:
    """Let checks take few of everything, and judge figures as the whole suite does."""
    _broken.append(None)
    try:
        yield
    finally:
        _broken.pop()


def judge(check: str, name: str, value: float, bound: float, *, generous: float) -> None:
    """Note a figure and fail when it is past its bound.

    Args:
        check: Whose figure it is, as ``row/fault``.
        name: What was measured, with its unit.
        value: What was measured.
        bound: What the table allows; judged in the whole suite.
        generous: What the small part allows, on a machine that is busy with other things.
    """
    if not _broken:
        reached.append(Figure(check, name, value, bound))
    allowed = bound if WHOLE else generous
    assert value <= allowed, f"{check}: {name} is {value:.3g}, more than {allowed:g}"
