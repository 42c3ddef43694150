"""The arithmetic of a run: pure functions over the seconds that blocks took.

Clocks, neighbours and frequency changes give two identical cases a ratio anywhere between 0.7 and
1.3 when they are timed one after the other. So all cases of a run are timed in short blocks in
shuffled order, compared only within one round, and a median is taken over the rounds. The first
case of a run, its base, is timed twice in each round: how far the ratio of these two is from 1
tells what the run is worth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

__all__ = ["BASE", "TOLERANCE", "TWIN", "Round", "Run", "is_steady", "loops_for"]

BASE: Final = "base"
"""The case that the others are compared with."""

TWIN: Final = "base again"
"""The same case once more: the A of the A/A pair that checks the run."""

TOLERANCE: Final = 0.02
"""How far the A/A ratio may be from 1."""

Round = Mapping[str, float]
"""Seconds for one operation, by case."""


@dataclass(frozen=True, slots=True)
class Run:
    """What was timed, round by round.

    Args:
        rounds: Each has every case, the base and its twin among them.
    """

    rounds: Sequence[Round]

    @property
    def pair(self) -> float:
        """The A/A ratio: 1 where nothing but chance differs, and chance is small."""
        return median(one[TWIN] / one[BASE] for one in self.rounds)

    @property
    def steady(self) -> bool:
        """Whether the run counts."""
        return is_steady(self.pair)

    def ratio(self, case: str, to: str = BASE) -> float:
        """Return how many times as long a case takes as another, in the median round."""
        return median(one[case] / _seconds(one, to) for one in self.rounds)

    def difference(self, case: str, to: str = BASE) -> float:
        """Return how many seconds more a case takes than another, in the median round."""
        return median(one[case] - _seconds(one, to) for one in self.rounds)

    def seconds(self, case: str) -> float:
        """Return how long a case takes in the median round."""
        return median(_seconds(one, case) for one in self.rounds)

    def least(self, case: str) -> float:
        """Return how long a case takes in its best round."""
        return min(_seconds(one, case) for one in self.rounds)


def _seconds(one: Round, case: str) -> float:
    # Two timings of the base are there: their mean is the better denominator.
    return (one[BASE] + one[TWIN]) / 2 if case == BASE else one[case]


def is_steady(pair: float) -> bool:
    """Tell whether an A/A ratio is near enough to 1, from either side."""
    return abs(math.log(pair)) <= math.log1p(TOLERANCE)


def loops_for(seconds: float, block: float) -> int:
    """Return how many operations of this length fill a block."""
    return max(1, round(block / seconds)) if seconds > 0 else 1
