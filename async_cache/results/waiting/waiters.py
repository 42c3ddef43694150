"""Those who wait: a thread or a coroutine each, and the roll of them all."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final

from async_cache import clock
from async_cache.results.waiting.topics import Topic

__all__ = ["MAX_TOPICS", "LoopWaiter", "Roll", "ThreadWaiter", "Waiter"]

MAX_TOPICS: Final = 20_000
"""Most that the waiters of one process and layer wait for; who comes later asks for himself."""

MOST_NEWS: Final = 100
"""Beyond one for each topic, that a waiter keeps before he looks; he forgets the oldest."""


class Waiter(ABC):
    """What one caller waits for, and what he was told of.

    Args:
        topics: What he waits for; of a group, how many members are to end.
    """

    def __init__(self, topics: Mapping[Topic, int]) -> None:
        self.topics = dict(topics)
        self.since = clock.monotonic()
        # Written by the listener, emptied by the waiter: both ends of a deque are atomic.
        self._told: deque[tuple[Topic, int]] = deque(maxlen=MOST_NEWS + len(topics))

    def tell(self, topic: Topic, ended: int) -> None:
        """Wake him; called by the listener's thread.

        Args:
            topic: What he waits for.
            ended: Of a group, how many members ended.
        """
        self._told.append((topic, ended))
        self._wake()

    def take(self) -> dict[Topic, int]:
        """Return what he was told since the last time."""
        told: dict[Topic, int] = {}
        while self._told:
            topic, ended = self._told.popleft()
            told[topic] = max(ended, told.get(topic, 0))
        return told

    @abstractmethod
    def _wake(self) -> None: ...


class ThreadWaiter(Waiter):
    """A thread that waits."""

    def __init__(self, topics: Mapping[Topic, int]) -> None:
        super().__init__(topics)
        self._event = threading.Event()

    def _wake(self) -> None:
        self._event.set()

    def wait(self, seconds: float) -> bool:
        """Return true once he is told, false when the time is over."""
        told = self._event.wait(seconds)
        self._event.clear()
        return told


class LoopWaiter(Waiter):
    """A coroutine that waits; no thread waits with it."""

    def __init__(self, topics: Mapping[Topic, int]) -> None:
        super().__init__(topics)
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._event.set)
        except RuntimeError:
            # Its loop was closed: nobody waits any more.
            return

    async def wait(self, seconds: float) -> bool:
        """Return true once it is told, false when the time is over."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


class Roll:
    """Who waits for what. Its owner holds a lock around each call."""

    def __init__(self) -> None:
        self._waiters: dict[Topic, dict[Waiter, None]] = {}
        self._fresh: set[Topic] = set()
        self.youngest = 0.0

    def __len__(self) -> int:
        return len(self._waiters)

    def add(self, waiter: Waiter) -> bool:
        """Put a waiter on the roll; return False when it is full."""
        if len(self._waiters) + len(waiter.topics) > MAX_TOPICS:
            return False
        for topic in waiter.topics:
            self._waiters.setdefault(topic, {})[waiter] = None
        self._fresh.update(waiter.topics)
        self.youngest = max(self.youngest, waiter.since)
        return True

    def remove(self, waiter: Waiter, topics: Iterable[Topic] | None = None) -> None:
        """Take a waiter off the roll, or from some topics only."""
        for topic in list(waiter.topics if topics is None else topics):
            waiter.topics.pop(topic, None)
            found = self._waiters.get(topic)
            if found is not None:
                found.pop(waiter, None)
                if not found:
                    del self._waiters[topic]
                    self._fresh.discard(topic)

    def topics(self) -> set[Topic]:
        """Return all that is waited for."""
        return set(self._waiters)

    def take_fresh(self) -> set[Topic]:
        """Return what somebody began to wait for since the last time."""
        fresh, self._fresh = self._fresh, set()
        return fresh

    def waiting(self, topic: Topic, ended: int) -> Iterable[Waiter]:
        """Return who waits for no more of a topic than has ended."""
        found = self._waiters.get(topic, {})
        return [waiter for waiter in found if waiter.topics[topic] <= ended]

    def everybody(self) -> set[Waiter]:
        """Return all waiters."""
        return {waiter for found in self._waiters.values() for waiter in found}
