"""Cached groups: how they grow, how they are read, and who survives writers in parallel."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import Any, Final

import redis
from django_q import tasks as q2
from django_q.brokers import get_broker
from django_q.monitor import save_cached

from async_cache.results import count_group, get_layer, result_group
from bench.figures import Figure
from bench.results.children import Child
from bench.results.peers import label, outcome, package
from bench.results.settings import REDIS_URL
from bench.rounds import BASE, TWIN, Round, Run
from bench.timing import batches, each, measure

__all__ = ["WRITERS", "cached_group", "savers", "writers"]

CHUNKS: Final = 100
WRITERS: Final = 4
PEER: Final = "django-q2"
SMALL: Final = "small"
"""Groups that stay small: a new one each round, beside those that grow."""


def savers() -> Mapping[str, Callable[[int, str], object]]:
    """Return how each saves a member of a group in the cache."""
    layer, broker = get_layer(True), get_broker()
    return {
        "ours": lambda number, group: layer.save(outcome(number, group)),
        PEER: lambda number, group: save_cached(package(number, group), broker),
    }


class _Traffic:
    """The bytes that a server received and sent since it was last asked."""

    def __init__(self) -> None:
        self._client = redis.Redis.from_url(REDIS_URL)
        self._total()
        # What one question costs is not the figure's.
        self._own = self._total() - self._total()
        self._last = self._total()

    def _total(self) -> int:
        found: Any = self._client.info("stats")
        return int(found["total_net_input_bytes"] + found["total_net_output_bytes"])

    def taken(self) -> int:
        last, self._last = self._last, self._total()
        return self._last - last + self._own


def cached_group(rounds: int, size: int) -> tuple[Run, tuple[Figure, ...]]:
    """Let groups grow, chunk by chunk in turn, and read them."""
    # The label and the function of django-q's own example: both travel with each member.
    groups = {BASE: "modf", TWIN: "fdom", PEER: "modf", SMALL: "tiny"}
    traffic = _Traffic()
    sent = dict.fromkeys(groups, 0)
    grown = _grow(groups, size, traffic, sent)
    expected = [math.modf(number / 2) for number in range(size)]
    for group in (groups[BASE], groups[TWIN]):
        assert result_group(group, cached=True) == expected, "members are missing"
    ours, peer = groups[BASE], groups[PEER]
    traffic.taken()
    result_group(ours, cached=True)
    count_group(ours, cached=True)
    sent[BASE] += traffic.taken()
    q2.result_group(peer, cached=True)
    q2.count_group(peer, cached=True)
    sent[PEER] += traffic.taken()
    many = 20
    read = measure(
        {
            BASE: each(partial(result_group, ours, cached=True)),
            PEER: each(partial(q2.result_group, peer, cached=True)),
            "count": batches(each(partial(count_group, ours, cached=True)), many),
            "failures": batches(each(partial(count_group, ours, True, cached=True)), many),
            "count, peer": each(partial(q2.count_group, peer, cached=True)),
            "failures, peer": each(partial(q2.count_group, peer, True, cached=True)),
        },
        rounds,
        block=0,
    )
    return grown, (
        *_growth(grown, size, sent),
        Figure(f"result_group of {size:,}", read.seconds(BASE) * 1e3, "ms", 80.0),
        Figure(f"result_group of {size:,}, {PEER}", read.seconds(PEER) * 1e3, "ms"),
        Figure("count_group", read.seconds("count") * 1e3, "ms", 1.0),
        Figure(f"count_group, {PEER}", read.seconds("count, peer") * 1e3, "ms"),
        Figure("count_group(failures=True)", read.seconds("failures") * 1e3, "ms", 1.0),
        Figure(f"count_group(failures=True), {PEER}", read.seconds("failures, peer") * 1e3, "ms"),
    )


def _grow(groups: Mapping[str, str], size: int, traffic: _Traffic, sent: dict[str, int]) -> Run:
    ways = savers()
    chunk = size // CHUNKS
    saves = {name: ways[PEER if name == PEER else "ours"] for name in groups}
    for name, save in saves.items():
        save(0, f"first {name}")  # whatever is made only once
    traffic.taken()
    order, taken = list(groups), list[Round]()
    for start in range(0, size, chunk):
        random.shuffle(order)
        one = {}
        for name in order:
            save, group = saves[name], groups[name]
            if name == SMALL:
                group += str(start)
            started = time.perf_counter()
            for number in range(start, start + chunk):
                save(number, group)
            one[name] = (time.perf_counter() - started) / chunk
            sent[name] += traffic.taken()
        taken.append(one)
    return Run(taken)


def _growth(run: Run, size: int, sent: Mapping[str, int]) -> tuple[Figure, ...]:
    tenth = CHUNKS // 10
    found = []
    for name, title, limit in ((BASE, "", 200.0), (PEER, f", {PEER}", None)):
        parts = {"the first": run.rounds[:tenth], "the last": run.rounds[-tenth:]}
        for part, rounds in parts.items():
            value = median(one[name] for one in rounds) * 1e6
            found.append(Figure(f"save, {part} {size // 10:,}{title}", value, "us", limit))
    ratio = Run(run.rounds[-tenth:]).ratio(BASE, SMALL)
    found.append(Figure(f"save, the last {size // 10:,} / into a new group meanwhile", ratio, "x"))
    for name, title, most in ((BASE, "", 6.0 * size / 10_000), (PEER, f", {PEER}", None)):
        value = sent[name] / 1e6
        found.append(Figure(f"traffic of {size:,}, saved and read{title}", value, "MB", most))
    return tuple(found)


def writers(rounds: int, size: int) -> tuple[None, tuple[Figure, ...]]:
    """Let processes write members of one group at the same time; count what was kept."""
    kept: dict[str, list[int]] = {"ours": [], PEER: []}
    seconds: dict[str, list[float]] = {"ours": [], PEER: []}
    for _ in range(rounds):
        for name in random.sample(list(kept), len(kept)):
            group = label()
            seconds[name].append(_write(name, group, size))
            if name == PEER:
                found = len(q2.result_group(group, cached=True) or ())
            else:
                found = len(result_group(group, cached=True))
                assert count_group(group, cached=True) == found
            kept[name].append(found)
    work = f"{WRITERS} processes x {size // WRITERS:,}"
    return None, (
        Figure(f"members kept of {work}", min(kept["ours"]), "", least=size),
        Figure(f"members kept of {work}, {PEER}", median(kept[PEER]), ""),
        Figure(f"{work}, until all are done", median(seconds["ours"]), "s"),
        Figure(f"{work}, until all are done, {PEER}", median(seconds[PEER]), "s"),
    )


def _write(name: str, group: str, size: int) -> float:
    share = size // WRITERS
    children = [
        Child("write", name, group, str(number * share), str(share)) for number in range(WRITERS)
    ]
    try:
        for child in children:
            child.hear()
        started = time.perf_counter()
        for child in children:
            child.say("go")
        for child in children:
            child.hear()
        return time.perf_counter() - started
    finally:
        for child in children:
            child.close()
