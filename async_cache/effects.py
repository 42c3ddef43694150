"""Effects that protocols ask for, and the two drivers that perform them.

A protocol (`refresh`) is a generator: it decides, yields an effect where something outside must
happen, and receives the answer, or the exception, at the same place. The same protocol therefore
runs in a thread (`run`), in an event loop (`arun`) and in a test that chooses the order of events.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import Any, Protocol, TypeAlias, TypeVar

__all__ = ["Effect", "Io", "Pause", "Steps", "Stores", "arun", "run"]

T = TypeVar("T")


class Effect(Protocol):
    """Something to be done outside of the protocol."""

    def perform(self) -> Any:
        """Do it, in this thread."""

    async def aperform(self) -> Any:
        """Do it without blocking the event loop."""


Steps: TypeAlias = Generator[Effect, Any, T]
"""A protocol that returns a ``T``."""


class Stores(Protocol):
    """What has a store, and its async twin where there is one."""

    @property
    def store(self) -> Any:
        """The store."""

    @property
    def async_store(self) -> Any:
        """Its async twin."""


class Io:
    """One exchange with the store: the store's method of that name."""

    __slots__ = ("argument", "at", "verb")

    def __init__(self, at: Stores, verb: str, argument: Any) -> None:
        self.at = at
        self.verb = verb
        self.argument = argument

    def perform(self) -> Any:
        """Call the store."""
        return getattr(self.at.store, self.verb)(self.argument)

    async def aperform(self) -> Any:
        """Await the store's async twin."""
        return await getattr(self.at.async_store, self.verb)(self.argument)

    def __repr__(self) -> str:
        return f"Io({self.verb})"


class Pause:
    """Wait some seconds."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def perform(self) -> None:
        """Sleep."""
        time.sleep(self.seconds)

    async def aperform(self) -> None:
        """Sleep, letting the event loop go on."""
        await asyncio.sleep(self.seconds)

    def __repr__(self) -> str:
        return f"Pause({self.seconds:g})"


def run(steps: Steps[T]) -> T:
    """Run a protocol in this thread."""
    answer: Any = None
    error: BaseException | None = None
    while True:
        try:
            effect = steps.send(answer) if error is None else steps.throw(error)
        except StopIteration as stop:
            result: T = stop.value
            return result
        answer, error = None, None
        try:
            answer = effect.perform()
        except BaseException as raised:  # noqa: BLE001
            # The protocol decides: it gives leases back and lets the exception through.
            error = raised


async def arun(steps: Steps[T]) -> T:
    """Run a protocol in the running event loop."""
    answer: Any = None
    error: BaseException | None = None
    while True:
        try:
            effect = steps.send(answer) if error is None else steps.throw(error)
        except StopIteration as stop:
            result: T = stop.value
            return result
        answer, error = None, None
        try:
            answer = await effect.aperform()
        except BaseException as raised:  # noqa: BLE001
            error = raised
