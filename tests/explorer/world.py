"""Simulated time, a shared memory, and actors that stop before each command of the store.

An actor is a greenlet: the real code runs in it unchanged, and hands over wherever it is about to
touch what others see. Nothing happens between two hand-overs but one such command.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from greenlet import GreenletExit, getcurrent, greenlet

from async_cache import clock, signals
from async_cache.signals import Announcement

START = 1_000_000.0


class Actor:
    """One line of events.

    Attributes:
        number: Its place in the scene.
        name: Shown in a trace.
        pending: The command before which it stands.
        wakes_at: When it goes on, if it sleeps.
        killed: It never goes on.
        seen: Hash of every answer it has had: with equal ones it is at the same place.
    """

    def __init__(self, world: World, number: int, name: str, play: Callable[[], object]) -> None:
        self.number = number
        self.name = name
        self.pending = "start"
        self.wakes_at = 0.0
        self.killed = False
        self.seen = 0
        self.drawn = 0
        self.greenlet = greenlet(play, parent=world.hub)

    @property
    def ended(self) -> bool:
        """Whether it has nothing more to do."""
        return self.killed or self.greenlet.dead

    def __repr__(self) -> str:
        return f"{self.name}:{self.pending}"


class World:
    """What the actors of one run share.

    Args:
        split: Whether a read of several names is several commands.
        remembers: Whether states are compared, for which every answer is hashed.
    """

    def __init__(self, *, split: bool = False, remembers: bool = False) -> None:
        self.hub = getcurrent()
        self.now = START
        self.data: dict[str, tuple[Any, float]] = {}
        self.writes = 0
        self.steps = 0
        self.flushes = 0
        self.split = split
        self.remembers = remembers
        self.actors: list[Actor] = []
        self.current: Actor | None = None
        self._drawn = 0

    # Actors.

    def add(self, name: str, play: Callable[[], object]) -> Actor:
        """Add an actor; it stands before its first command."""
        actor = Actor(self, len(self.actors), name, play)
        self.actors.append(actor)
        return actor

    def ready(self) -> list[Actor]:
        """Return who can go on; time passes when all that are left sleep."""
        alive = [actor for actor in self.actors if not actor.ended]
        ready = [actor for actor in alive if actor.wakes_at <= self.now]
        if alive and not ready:
            self.now = min(actor.wakes_at for actor in alive)
            ready = [actor for actor in alive if actor.wakes_at <= self.now]
        return ready

    def step(self, actor: Actor) -> None:
        """Let an actor go on until it stands before its next command."""
        self.steps += 1
        self.current = actor
        try:
            actor.greenlet.switch()
        finally:
            self.current = None

    def stop(self, command: str) -> None:
        """Stand before a command until the scheduler says to go on; called by actors."""
        actor = self.current
        if actor is None:
            return
        if not actor.killed:
            actor.pending = command
            self.hub.switch()
        if actor.killed:
            raise GreenletExit

    def sleep(self, seconds: float) -> None:
        """Stand still for some time."""
        actor = self.current
        assert actor is not None
        actor.wakes_at = self.now + seconds
        self.stop("wake")

    def learn(self, answer: object) -> None:
        """Note what the current actor was answered."""
        actor = self.current
        if self.remembers and actor is not None:
            actor.seen = hash((actor.seen, answer))

    def end(self) -> None:
        """Free what actors that were cut off still hold; they change nothing any more."""
        for actor in self.actors:
            if not actor.greenlet.dead:
                actor.killed = True
                self.current = actor
                if actor.greenlet:
                    actor.greenlet.throw()
        self.current = None

    def state(self) -> int:
        """Return a hash of all that decides what can happen from here on."""
        parts = [(a.ended, a.seen, a.pending, a.wakes_at) for a in self.actors]
        return hash((*parts, self.now, frozenset(self.data.items())))

    def random_bytes(self, size: int) -> bytes:
        """Return bytes that are never returned again, the same in each run of one schedule."""
        actor = self.current
        if actor is None:
            self._drawn += 1
            number, count = 255, self._drawn
        else:
            actor.drawn += 1
            number, count = actor.number, actor.drawn
        # A UUID overwrites some bits past the first six bytes.
        return (b"%c%b" % (number, count.to_bytes(5, "big"))).ljust(size, b"\0")

    # Memory.

    def get(self, name: str) -> Any:
        """Return what is there now."""
        found = self.data.get(name)
        return found[0] if found is not None and found[1] > self.now else None

    def left(self, name: str) -> float:
        """Return for how many seconds it will be there."""
        found = self.data.get(name)
        return found[1] - self.now if found is not None else 0.0

    def set(self, name: str, value: Any, seconds: float) -> None:
        """Write."""
        self.writes += 1
        self.data[name] = (value, self.now + seconds)

    def drop(self, name: str) -> None:
        """Remove, there or not."""
        self.writes += 1
        self.data.pop(name, None)

    def flush(self) -> None:
        """Lose everything."""
        self.flushes += 1
        self.writes += 1
        self.data.clear()


class Present:
    """The world that the patched clock and randomness belong to."""

    world: World


@contextmanager
def simulated() -> Iterator[None]:
    """Take clock, randomness and signals from the present world."""

    def now() -> float:
        return Present.world.now

    with ExitStack() as stack:
        stack.enter_context(patch.object(clock, "now", now))
        stack.enter_context(patch.object(clock, "monotonic", now))
        stack.enter_context(patch("random.random", lambda: 0.5))
        stack.enter_context(
            patch.object(os, "urandom", lambda size: Present.world.random_bytes(size))
        )
        # Nobody listens: what listeners do is tested elsewhere, and a hundred thousand times.
        for signal in vars(signals).values():
            if isinstance(signal, Announcement):
                stack.enter_context(patch.object(signal, "receivers", []))
        yield
