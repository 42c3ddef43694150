"""Every schedule of a small scene, or random ones of larger scenes."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from tests.explorer.actors import Scene, Stage
from tests.explorer.stores import SOUND, Breaks
from tests.explorer.watch import Broken
from tests.explorer.world import Actor

LONGEST = 2_000


@dataclass
class Found:
    """What a search came to.

    Attributes:
        runs: Schedules run, each to its end or to a state met before.
        ends: Those that came to their end.
        served: How many answers were compared with the model.
        states: Different states met.
    """

    runs: int = 0
    ends: int = 0
    served: int = 0
    states: int = 0


def failed(scene: Scene, schedule: list[int], error: BaseException) -> Broken:
    """Return the error that shows how to run this schedule again."""
    return Broken(f"{error}\nscene = {scene!r}\nschedule = {schedule!r}")


def explore(scene: Scene, breaks: Breaks = SOUND) -> Found:
    """Run every schedule of a scene; states met before are not gone through again.

    Raises:
        Broken: With the schedule in which a promise does not hold.
    """
    found = Found()
    known: set[int] = set()
    todo: list[list[int]] = [[]]
    while todo:
        prefix = todo.pop()
        found.runs += 1
        stage = Stage(scene, breaks, remembers=True)
        schedule: list[int] = []
        try:
            _run(stage, prefix, schedule, known, todo, found)
        except (AssertionError, ValueError) as error:
            raise failed(scene, schedule, error) from error
        finally:
            stage.world.end()
        found.served += stage.watch.served
    found.states = len(known)
    return found


def _run(
    stage: Stage,
    prefix: list[int],
    schedule: list[int],
    known: set[int],
    todo: list[list[int]],
    found: Found,
) -> None:
    world = stage.world
    while True:
        ready = world.ready()
        if not ready:
            found.ends += 1
            stage.finish()
            return
        if len(schedule) < len(prefix):
            number = prefix[len(schedule)]
        else:
            state = world.state()
            if state in known:
                return
            known.add(state)
            todo.extend([*schedule, other.number] for other in ready[1:])
            number = ready[0].number
        schedule.append(number)
        _step(stage, world.actors[number])


def _step(stage: Stage, actor: Actor) -> None:
    world = stage.world
    watch = stage.watch
    before = world.writes, world.now, watch.ticks
    world.step(actor)
    if (world.writes, world.now, watch.ticks) != before:
        watch.check()


def replay(scene: Scene, schedule: list[int], breaks: Breaks = SOUND) -> Stage:
    """Run one schedule, then whatever is left in turn; return the stage for a closer look.

    ``~number`` in a schedule is where that actor was killed.
    """
    stage = Stage(scene, breaks)
    world = stage.world
    try:
        for number in schedule:
            world.ready()
            if number < 0:
                world.actors[~number].killed = True
            elif not world.actors[number].ended:
                _step(stage, world.actors[number])
        while ready := world.ready():
            _step(stage, ready[0])
        stage.finish()
    finally:
        world.end()
    return stage


def wander(scene: Scene, random: Random, breaks: Breaks = SOUND, crashes: int = 0) -> Found:
    """Run one random schedule.

    Half of them choose anew at each step; half let one actor go on until its turn is taken away,
    which is how a process stops between two commands for as long as others need for many.

    Args:
        scene: The scene.
        random: Where chance comes from.
        breaks: What to leave out.
        crashes: How many actors may be killed on the way.

    Raises:
        Broken: With the schedule in which a promise does not hold.
    """
    stage = Stage(scene, breaks)
    world = stage.world
    schedule: list[int] = []
    stays = random.choice((0.0, 0.0, 0.7, 0.9))
    draw = random.random
    ready: list[Actor] = []
    actor: Actor | None = None
    try:
        while ready := world.ready():
            if actor is None or actor.ended or actor not in ready or draw() >= stays:
                actor = ready[int(draw() * len(ready))]
            if crashes and draw() < 0.02:
                crashes -= 1
                actor.killed = True
                schedule.append(~actor.number)
                continue
            schedule.append(actor.number)
            _step(stage, actor)
            assert len(schedule) < LONGEST, "it never ends"
        stage.finish()
    except (AssertionError, ValueError) as error:
        raise failed(scene, schedule, error) from error
    finally:
        world.end()
    return Found(1, 1, stage.watch.served)
