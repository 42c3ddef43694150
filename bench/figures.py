"""What a run tells: figures with their targets, and how they are printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Figure", "Report", "table"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number.

    Attributes:
        name: What was measured.
        value: The number.
        unit: ``"x"`` for a ratio, ``"us"``, ``"ms"``, ``"MB"``, ``"/s"``, ``"%"``, or ``""`` for a
            count.
        target: What it may be at most; None where nothing is promised.
        least: What it must be at least, of a figure that is to be large.
    """

    name: str
    value: float
    unit: str
    target: float | None = None
    least: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.least is not None:
            return self.value >= self.least
        return None if self.target is None else self.value <= self.target


@dataclass(frozen=True, slots=True)
class Report:
    """The figures of one scene.

    Attributes:
        scene: Its name.
        figures: What was measured; empty where it could not be.
        pair: The A/A ratio of the run; None where there is no run.
        runs: How many runs it took, discarded ones included.
        problem: Why nothing was measured, or why the figures count for little.
        note: Why nothing was to be measured here.
    """

    scene: str
    figures: tuple[Figure, ...] = ()
    pair: float | None = None
    runs: int = 0
    problem: str = ""
    note: str = ""


def table(reports: Sequence[Report]) -> str:
    """Return the figures as a table for people."""
    lines = [f"{'figure':<66}{'measured':>12}{'target':>12}  met"]
    for report in reports:
        pair = "" if report.pair is None else f"  (A/A {report.pair:.3f}, run {report.runs})"
        lines.append(f"\n{report.scene}{pair}")
        lines += [f"  {remark}" for remark in (report.problem, report.note) if remark]
        for one in report.figures:
            met = {None: "", True: "yes", False: "NO"}[one.met]
            value, target = _number(one.value, one.unit), _target(one)
            lines.append(f"  {one.name:<64}{value:>12}{target:>12}  {met}".rstrip())
    return "\n".join(lines)


def _target(figure: Figure) -> str:
    if figure.least is not None:
        return ">= " + _number(figure.least, figure.unit)
    return "" if figure.target is None else "<= " + _number(figure.target, figure.unit)


def _number(value: float, unit: str) -> str:
    if unit == "x":
        return f"{value:.2f}"
    if unit in ("/s", ""):
        return f"{value:,.0f} {unit}".rstrip()
    return f"{value:,.1f} {unit}" if value >= 1 or value <= 0 else f"{value:.2f} {unit}"
