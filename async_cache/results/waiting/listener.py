"""The one thread of a process that hears, or asks, for all who wait on a layer.

A waiter asks for himself, puts himself on the roll, and sleeps. The thread has the store tell of
what he waits for, asks for it once more (it may have become ready in between), and wakes him when
the store tells. From time to time it asks for everything on the roll in one question, so that a
lost message is a delay and nothing worse. Where the store tells nothing it only asks, ever less
often.
"""

from __future__ import annotations

import logging
import selectors
import socket
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from async_cache import clock, threads
from async_cache.exceptions import AsyncCacheError
from async_cache.results.waiting.line import Line
from async_cache.results.waiting.topics import GROUP, NAME, TASK, News, Topic
from async_cache.results.waiting.waiters import Roll, Waiter

if TYPE_CHECKING:
    from async_cache.results.layers.base import Layer

__all__ = ["Listener"]

logger = logging.getLogger("async_cache.results")

IDLE_SECONDS: Final = 5.0
"""How long the thread stays after the last waiter."""
LOOK_SECONDS: Final = 2.0
"""Between two questions for everything, while the store tells."""
FIRST_PAUSE: Final = 0.005
LONGEST_PAUSE: Final = 0.25
PART_OF_WAIT: Final = 0.1
"""Who is told by asking is told after this part of his wait more, at most."""
COST_FACTOR: Final = 4
"""Asking takes a fifth of the thread's time at most."""
TROUBLE_SECONDS: Final = 0.25
"""What a question counts for that was not answered."""

_Selector: Final[Any] = getattr(selectors, "PollSelector", selectors.SelectSelector)


def pause_for(age: float, cost: float) -> float:
    """Return the seconds until the next question of who is not told.

    Args:
        age: How long the youngest waiter has waited.
        cost: What the last question took.
    """
    least = min(LOOK_SECONDS, max(FIRST_PAUSE, cost * COST_FACTOR))
    return max(least, min(LONGEST_PAUSE, age * PART_OF_WAIT))


class Listener:
    """The thread of one layer, and its roll of waiters.

    Args:
        layer: Where what they wait for is stored.
    """

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._lock = threading.Lock()
        self._roll = Roll()
        self._line = Line(layer.name, layer.open_wire)
        self._bell, self._button = socket.socketpair()
        self._bell.setblocking(False)
        self._button.setblocking(False)
        self._ends = False
        self._busy_at = clock.monotonic()
        # The last question for everything, and what the last of any kind took.
        self._looked_at = 0.0
        self._cost = 0.0
        # Groups whose counts are not known since the store told of them, and when to ask.
        self._uncounted: set[Topic] = set()
        self._count_at = 0.0
        # Told of already: not to be told again is no loss.
        self._known: set[Topic] = set()
        self.thread: threading.Thread | None = None

    # Called by those who wait.

    def start(self) -> bool:
        """Start the thread; return False where none can be."""
        self.thread = threads.start("waiting", self._run)
        if self.thread is None:
            self._end()
        return self.thread is not None

    @property
    def alive(self) -> bool:
        """Whether it takes waiters."""
        return not self._ends and self.thread is not None and self.thread.is_alive()

    def add(self, waiter: Waiter) -> bool:
        """Put a waiter on the roll; return False when it is full, or the thread ends."""
        with self._lock:
            added = not self._ends and self._roll.add(waiter)
            if added:
                self._ring()
        return added

    def remove(self, waiter: Waiter, topics: Iterable[Topic] | None = None) -> None:
        """Take a waiter off the roll, or from some topics only."""
        with self._lock:
            self._roll.remove(waiter, topics)

    def __len__(self) -> int:
        return len(self._roll)

    def stop(self) -> None:
        """Let the thread end now."""
        with self._lock:
            self._ends = True
            self._ring()

    def abandon(self) -> None:
        """Close what a forked child has of its parent's thread."""
        self._bell.close()
        self._button.close()

    def _ring(self) -> None:
        try:
            self._button.send(b".")
        except OSError:
            # Full of what was not heard yet, or closed at the end.
            return

    # The thread.

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except Exception:
            logger.exception("Those who wait for results ask for themselves from now on.")
        finally:
            self._end()

    def _end(self) -> None:
        with self._lock:
            self._ends = True
            left = [(waiter, list(waiter.topics)) for waiter in self._roll.everybody()]
        self._line.close()
        threads.close_connections()
        self._bell.close()
        self._button.close()
        for waiter, topics in left:
            for topic in topics:
                waiter.tell(topic, 0)

    def _turn(self) -> bool:
        now = clock.monotonic()
        with self._lock:
            topics, fresh = self._roll.topics(), self._roll.take_fresh()
            if topics:
                self._busy_at = now
            elif now - self._busy_at >= IDLE_SECONDS:
                self._ends = True
            if self._ends:
                return False
        if topics and self._line.adjust(topics):
            # Something may have gone untold before.
            fresh = topics
        self._hear()
        self._uncounted &= topics
        self._known &= topics
        if fresh and self._line.wire is not None:
            self._look(fresh)
        if self._uncounted and clock.monotonic() >= self._count_at:
            self._look(self._uncounted)
        if topics and clock.monotonic() >= self._looked_at + self._pause():
            self._look_again(topics)
        self._sleep(bool(topics))
        return True

    def _pause(self) -> float:
        if self._line.wire is not None:
            return LOOK_SECONDS
        return pause_for(clock.monotonic() - self._roll.youngest, self._cost)

    def _sleep(self, busy: bool) -> None:
        # What came while something was asked was read then: the connection is silent about it.
        self._hear()
        ends = [self._busy_at + IDLE_SECONDS]
        if busy:
            ends = [self._looked_at + self._pause()]
            if self._uncounted:
                ends.append(self._count_at)
            if self._line.retry_at is not None:
                ends.append(self._line.retry_at)
        seconds = max(0.0, min(ends) - clock.monotonic())
        number = self._line.fileno()
        with _Selector() as selector:
            selector.register(self._bell, selectors.EVENT_READ)
            if number >= 0:
                selector.register(number, selectors.EVENT_READ)
            heard = {key.fileobj for key, _ in selector.select(seconds)}
        if self._bell in heard:
            self._bell.recv(4096)
        if number in heard:
            self._hear()

    # Telling.

    def _deliver(self, news: Iterable[News]) -> None:
        """Tell those who wait for what the store told of."""
        for topic, ended in news:
            if topic.kind != GROUP:
                self._tell(topic, 1)
            elif ended is not None:
                self._tell(topic, ended)
                continue
            # At least this one.
            self._tell(topic, 1)
            if topic not in self._uncounted:
                # The store does not count while it tells: ask, not for each member.
                if not self._uncounted:
                    self._count_at = max(self._count_at, clock.monotonic())
                self._uncounted.add(topic)

    def _tell(self, topic: Topic, ended: int) -> bool:
        with self._lock:
            found = list(self._roll.waiting(topic, ended))
        if found:
            self._known.add(topic)
        for waiter in found:
            waiter.tell(topic, ended)
        return bool(found)

    # Asking.

    def _look_again(self, topics: set[Topic]) -> None:
        self._hear()
        known = set(self._known)
        found = self._look(topics)
        self._looked_at = clock.monotonic()
        heard = {topic for topic, _ in self._hear()}
        if found - known - heard and self._line.wire is not None:
            self._line.lose("it did not tell of what has ended")

    def _hear(self) -> list[News]:
        news = self._line.hear()
        self._deliver(news)
        return news

    def _look(self, topics: Iterable[Topic]) -> set[Topic]:
        """Ask for topics in one question, tell who waits for them; return of which."""
        asked = list(topics)
        by_kind = {
            kind: [topic.name for topic in asked if topic.kind == kind]
            for kind in (TASK, NAME, GROUP)
        }
        self._uncounted.difference_update(asked)
        started = clock.monotonic()
        try:
            changed = self._layer.changed(by_kind[TASK], by_kind[GROUP], by_kind[NAME])
        except AsyncCacheError as error:
            # Waiters go on waiting: it may be over before their time is.
            logger.warning("Results that are waited for could not be looked up: %s", error)
            if self._line.wire is None:
                threads.close_connections()
            self._cost = TROUBLE_SECONDS
            return set()
        self._cost = clock.monotonic() - started
        self._count_at = clock.monotonic() + self._cost * COST_FACTOR
        ended = {Topic(TASK, task_id): 1 for task_id in changed.records}
        ended |= {Topic(NAME, name): 1 for name in changed.names}
        ended |= {Topic(GROUP, group): counts.ended for group, counts in changed.counts.items()}
        return {topic for topic, number in ended.items() if self._tell(topic, number)}
