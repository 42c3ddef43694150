"""A hit with and without the lines that count it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from async_cache import reading
from async_cache.tallies import Tally
from bench.figures import Figure
from bench.jobs import Value
from bench.rounds import BASE, Run
from bench.timing import each, measure

__all__ = ["tally"]

SIZE: Final = "100 B"


def _uncounted() -> Callable[..., Any]:
    """Return `reading.get` without the lines that count a hit."""
    lines = inspect.getsource(reading.get).splitlines()
    counting = [line for line in lines if line.strip().startswith(("tally =", "tally."))]
    assert len(counting) == 3, counting
    source = "\n".join(line for line in lines if line not in counting)
    found: dict[str, Any] = {}
    exec(compile(source, "<uncounted>", "exec"), vars(reading), found)
    get: Callable[..., Any] = found["get"]
    return get


class _Runtime:
    def __init__(self) -> None:
        self.tally = Tally()


def _alone(runtime: Any, now: float, started: float) -> None:
    tally = runtime.tally
    tally.fresh += 1
    tally.age += now - started


def _nothing(runtime: Any, now: float, started: float) -> None:
    pass


def tally(rounds: int) -> tuple[Run, tuple[Figure, ...]]:
    """Compare whole hits, and time the lines alone: the difference is near what can be told."""
    job = Value()
    job.get(SIZE)
    runtime: Any = job._runtime
    before = runtime.tally.fresh
    uncounted = _uncounted()
    uncounted(runtime, (SIZE,), {})
    assert runtime.tally.fresh == before
    reading.get(runtime, (SIZE,), {})
    assert runtime.tally.fresh == before + 1
    alone = _Runtime()
    run = measure(
        {
            BASE: each(partial(uncounted, runtime, (SIZE,), {})),
            "counted": each(partial(reading.get, runtime, (SIZE,), {})),
            "lines": each(partial(_alone, alone, 1e9, 9e8)),
            "no lines": each(partial(_nothing, alone, 1e9, 9e8)),
        },
        rounds,
    )
    lines = run.difference("lines", "no lines")
    return run, (
        Figure("% of a hit that its counting takes", 100 * lines / run.seconds(BASE), "%", 1.0),
        Figure("hit / the same without counting", run.ratio("counted"), "x"),
        Figure("counting of a hit", lines * 1e9, "ns"),
        Figure("hit without counting", run.seconds(BASE) * 1e6, "us"),
    )
