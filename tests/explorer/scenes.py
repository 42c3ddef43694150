"""Larger scenes, put together by chance."""

from __future__ import annotations

from random import Random

from async_cache.attempts import Purpose
from async_cache.stores.base import Level
from tests.explorer.actors import (
    KEYS,
    VERBS,
    Flush,
    Part,
    Reader,
    Refresher,
    Scene,
    Wait,
    Writer,
)
from tests.explorer.watch import LEASE

WAITS = (1.0, LEASE / 2, LEASE + 1, LEASE + 1, 2 * LEASE, 61.0, 700.0)


def random_scene(random: Random, level: Level | None = None) -> Scene:
    """Return three or four refreshers, two or three writers, and what else may happen."""
    draw, choice = random.random, random.choice
    keys = KEYS[: choice((1, 1, 1, 2, 3))]
    parts: list[Part] = [_refresher(random, keys) for _ in range(choice((3, 4)))]
    parts += [
        Writer(choice(VERBS), choice(keys), choice(("all", "t0", "t1")))
        for _ in range(choice((2, 3)))
    ]
    parts += [Wait(choice(WAITS)) for _ in range(choice((0, 1, 2, 3)))]
    if draw() < 0.3:
        parts.append(Reader(choice(keys)))
    if draw() < 0.1:
        parts.append(Flush())
    return Scene(
        choice((Level.FENCED, Level.VALIDATED)) if level is None else level,
        tuple(parts),
        choice(("plain", "tagged")),
        keys,
        choice(("empty", "stamped", "fresh", "stale", "stale")),
        split=draw() < 0.2,
    )


def _refresher(random: Random, keys: tuple[str, ...]) -> Refresher:
    draw, choice = random.random, random.choice
    purpose = choice((Purpose.RENEW, Purpose.RENEW, Purpose.COLD, Purpose.FORCE))
    return Refresher(
        keys if draw() < 0.2 else (choice(keys),),
        purpose,
        choice(("value", "value", "value", "fail", "negative")),
        renews=draw() < 0.3,
        waits=purpose is not Purpose.RENEW and draw() < 0.7,
        queued=purpose is Purpose.RENEW and draw() < 0.4,
    )
