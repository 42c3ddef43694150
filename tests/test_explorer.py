"""The real protocols under every order of events of small scenes, and random ones of larger."""

from __future__ import annotations

import os
from collections.abc import Iterator
from random import Random

import pytest

from async_cache.attempts import Purpose
from async_cache.stores.base import Level
from async_cache.stores.registry import reset_stores
from tests.explorer.actors import VERBS, Refresher, Scene, Stage, Wait, Writer
from tests.explorer.scenes import random_scene
from tests.explorer.search import explore, replay, wander
from tests.explorer.stores import Breaks
from tests.explorer.watch import Broken
from tests.explorer.world import Actor, simulated

# Over the tests that share them.
SCHEDULES = int(os.environ.get("EXPLORER_SCHEDULES", "100000"))
SHARES = 8


@pytest.fixture(autouse=True)
def _simulated() -> Iterator[None]:
    with simulated():
        yield
    reset_stores()


@pytest.mark.parametrize("start", ["stale", "empty"])
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("level", Level)
def test_every_schedule_of_two_refreshers_and_a_writer(level: Level, verb: str, start: str) -> None:
    purpose = Purpose.RENEW if start == "stale" else Purpose.COLD
    refresher = Refresher(purpose=purpose)
    # Without an entry a set begins with the job's stamp in place, to keep the search small.
    start = "stamped" if (verb, start) == ("set", "empty") else start
    job = "tagged" if verb == "invalidate_tags" else "plain"
    found = explore(Scene(level, (refresher, refresher, Writer(verb)), job, start=start))
    assert found.ends >= 30
    assert found.served >= 100


EXPIRING = (Refresher(), Refresher(), Wait())


@pytest.mark.parametrize("level", Level)
def test_every_schedule_of_two_refreshers_and_the_end_of_a_lease(level: Level) -> None:
    assert explore(Scene(level, EXPIRING)).ends >= 30


@pytest.mark.parametrize(
    ("level", "left_out"),
    [
        (Level.FENCED, "fence"),
        (Level.FENCED, "election"),
        (Level.VALIDATED, "fence"),
        (Level.VALIDATED, "stamps"),
        (Level.VALIDATED, "renewal"),
        (Level.VALIDATED, "election"),
    ],
)
def test_the_search_finds_what_is_left_out(level: Level, left_out: str) -> None:
    with pytest.raises(Broken, match="P3"):
        explore(Scene(level, EXPIRING), Breaks(**{left_out: True}))


# A fenced commit compares the hard stamps itself, so there `delete` and `set` need no reader.
@pytest.mark.parametrize(
    ("level", "verb"),
    [(Level.VALIDATED, verb) for verb in VERBS]
    + [(Level.FENCED, verb) for verb in ("invalidate", "clear", "invalidate_tags")],
)
def test_the_search_finds_readers_who_compare_no_stamps(level: Level, verb: str) -> None:
    job = "tagged" if verb == "invalidate_tags" else "plain"
    parts = (Refresher(), Refresher(), Writer(verb))
    with pytest.raises(Broken, match="P4"):
        explore(Scene(level, parts, job), Breaks(stamps=True))


def test_a_straggler_that_ends_anothers_lease_hides_nothing() -> None:
    # On a validated store the lease is compared and then deleted: between the two it may have
    # become another's, and a third then fetches beside that one. What is served stays right.
    force = Refresher(purpose=Purpose.FORCE)
    scene = Scene(Level.VALIDATED, (force, force, force, Wait()))
    stage = Stage(scene)
    first, second, third, wait = stage.world.actors
    schedule: list[int] = []

    def until(actor: Actor, command: str) -> None:
        while actor.pending != command:
            assert not actor.ended
            schedule.append(actor.number)
            stage.world.step(actor)

    until(first, "delete_many")
    schedule.append(wait.number)
    stage.world.step(wait)
    until(second, "fetched")
    schedule.append(first.number)
    stage.world.step(first)
    until(third, "fetched")
    assert stage.watch.straggles("x")
    assert len(stage.watch.flights) == 2
    stage.world.end()
    assert replay(scene, schedule).watch.served > 10


@pytest.mark.parametrize("share", range(SHARES))
def test_random_schedules_of_larger_scenes(share: int) -> None:
    served = 0
    for seed in range(share, SCHEDULES, SHARES):
        random = Random(seed)
        served += wander(random_scene(random), random, crashes=random.choice((0, 0, 1, 2))).served
    assert served > SCHEDULES // SHARES


@pytest.mark.parametrize(
    ("level", "left_out"),
    [
        (Level.FENCED, "fence"),
        (Level.FENCED, "stamps"),
        (Level.VALIDATED, "fence"),
        (Level.VALIDATED, "stamps"),
    ],
)
def test_random_schedules_find_what_is_left_out(level: Level, left_out: str) -> None:
    def search() -> None:
        for seed in range(2_000):
            random = Random(seed)
            wander(random_scene(random, level), random, Breaks(**{left_out: True}))

    with pytest.raises(Broken, match=r"P\d"):
        search()
