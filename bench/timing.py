"""Time cases against each other: short blocks, shuffled order, one core."""

from __future__ import annotations

import gc
import os
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

import psutil

from bench.rounds import BASE, TWIN, Round, Run, loops_for

__all__ = ["BLOCK", "PRIORITY", "Case", "batches", "each", "measure", "pin", "quietest_core"]

BLOCK: Final = 0.015
"""Seconds that one block takes, about."""

PRIORITY: Final = -15
"""Nice value: a neighbour on the same core would add the same to every case."""

Case = Callable[[int], float]
"""Do something so many times and return the seconds that took."""


def quietest_core() -> int:
    """Return the core, of those this process may use, that is least busy."""
    busy: list[float] = psutil.cpu_percent(interval=0.3, percpu=True)
    return min(os.sched_getaffinity(0), key=lambda core: busy[core])


def pin(core: int) -> None:
    """Run this process, and those it starts from now on, on one core, before others if allowed."""
    os.sched_setaffinity(0, {core})
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)


def each(operation: Callable[[], object]) -> Case:
    """Make a case of a call without arguments."""

    def case(loops: int) -> float:
        counter = range(loops)
        started = time.perf_counter()
        for _ in counter:
            operation()
        return time.perf_counter() - started

    return case


def batches(case: Case, size: int) -> Case:
    """Make a case of one done so many times at once, for a run without blocks of a set length."""
    return lambda loops: case(loops * size) / size


def measure(cases: Mapping[str, Case], rounds: int, block: float = BLOCK) -> Run:
    """Time cases; the one named `BASE` is timed twice in each round.

    Args:
        cases: By name, `BASE` among them.
        rounds: How many.
        block: Seconds for each block; 0 for one operation a block.
    """
    every = {**cases, TWIN: cases[BASE]}
    loops = {name: _calibrate(case, block) for name, case in every.items()}
    loops[TWIN] = loops[BASE]
    order = list(every)
    taken: list[Round] = []
    gc.collect()
    gc.freeze()
    for _ in range(rounds):
        random.shuffle(order)
        one = {}
        for name in order:
            gc.collect(0)
            gc.disable()
            try:
                one[name] = every[name](loops[name]) / loops[name]
            finally:
                gc.enable()
        taken.append(one)
    return Run(taken)


def _calibrate(case: Case, block: float) -> int:
    case(1)  # whatever is made only once
    if not block:
        return 1
    return loops_for(min(case(20) for _ in range(5)) / 20, block)
