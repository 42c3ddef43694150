"""How the backends wait for tasks: told by the layer's listener, with Celery's own arguments."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from celery import states
from celery.backends.base import BaseBackend
from kombu.utils.encoding import bytes_to_str

from async_cache import clock
from async_cache.results.layers import Layer
from async_cache.results.waiting import (
    OWN_LOOK,
    TASK,
    Listener,
    ThreadWaiter,
    Topic,
    pauses,
    watch,
)

__all__ = ["WaitingMixin"]

INTERVAL: Final = 0.5
SHORTEST_INTERVAL: Final = 0.005
GROWTH: Final = 1.1
"""Small: the last pause, by which a waiter may be late, is a tenth of the whole wait."""

if TYPE_CHECKING:
    _Backend = BaseBackend
else:
    _Backend = object


class WaitingMixin(_Backend):
    """`get_many` and `wait_for`: put it before one of Celery's base classes."""

    _cache: Any

    @property
    def listened_layer(self) -> Layer | None:
        """Where the results of this backend are; None where nobody can tell of them."""
        raise NotImplementedError

    def load_ready(self, task_ids: Collection[str]) -> dict[str, dict[str, Any]]:
        """Return the meta of those tasks that have ended, by id."""
        raise NotImplementedError

    def get_many(
        self,
        task_ids: Any,
        timeout: float | None = None,
        interval: float | None = INTERVAL,
        no_ack: bool = True,
        on_message: Any = None,
        on_interval: Any = None,
        max_iterations: int | None = None,
        READY_STATES: Any = None,  # noqa: N803 - Celery's name
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield id and meta of each task as it ends.

        Args:
            task_ids: Ids of the tasks.
            timeout: The longest wait, in seconds.
            interval: Seconds between two calls of ``on_interval``.
            no_ack: Not used.
            on_message: Called with each meta.
            on_interval: Called while there is something to wait for.
            max_iterations: How many intervals it takes part in, the first look included.
            READY_STATES: Not used.

        Raises:
            TimeoutError: Some have not ended in time.
        """
        left = {bytes_to_str(task_id) for task_id in task_ids}
        with _Wait(self, timeout, interval) as wait:
            # What is asked for first needs no listener where all have ended.
            wanted, rounds = set(left), 0
            while left:
                ready = {name: self._cache[name] for name in wanted if name in self._cache}
                ready |= self.load_ready(wanted - ready.keys())
                for task_id, meta in ready.items():
                    left.discard(task_id)
                    self._cache[task_id] = meta
                    if on_message is not None:
                        on_message(meta)
                    yield task_id, meta
                wait.drop(ready)
                if wait.is_round_over:
                    rounds += 1
                    if not left or (max_iterations is not None and rounds >= max_iterations):
                        return
                    if on_interval is not None:
                        on_interval()
                wanted = wait.next(left) & left if left else set()

    def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float | None = INTERVAL,
        no_ack: bool = True,
        on_interval: Any = None,
    ) -> dict[str, Any]:
        """Wait for a task and return its meta.

        Args:
            task_id: Id of the task.
            timeout: The longest wait, in seconds.
            interval: Seconds between two calls of ``on_interval``.
            no_ack: Not used.
            on_interval: Called while there is something to wait for.

        Raises:
            TimeoutError: It has not ended in time.
        """
        self._ensure_not_eager()  # type: ignore[attr-defined]
        task_id = bytes_to_str(task_id)
        meta: dict[str, Any] = self.get_task_meta(task_id)
        if meta["status"] in states.READY_STATES:
            return meta
        with _Wait(self, timeout, interval) as wait:
            while True:
                if wait.is_round_over and on_interval:
                    on_interval()
                if wait.next({task_id}):
                    meta = self.get_task_meta(task_id)
                    if meta["status"] in states.READY_STATES:
                        return meta


class _Wait(ExitStack):
    """The looks of one waiter: when he is told; else soon at first, then ever less often.

    Attributes:
        is_round_over: Whether an interval has passed since the last round.
    """

    def __init__(self, backend: Any, timeout: float | None, interval: float | None) -> None:
        super().__init__()
        now = clock.monotonic()
        self._backend = backend
        self._end = None if timeout is None else now + timeout
        self._interval = max(INTERVAL if interval is None else interval, SHORTEST_INTERVAL)
        self._pauses = pauses(self._interval, GROWTH)
        self._round_at = self._look_at = now
        self._waiter: ThreadWaiter | None = None
        self._listener: Listener | None = None
        self.is_round_over = True

    def next(self, left: set[str]) -> set[str]:
        """Wait for news, or for the interval to be over; return the ids to look at.

        Raises:
            TimeoutError: The time was over before.
        """
        now = clock.monotonic()
        if self._end is not None and now >= self._end:
            raise self._backend.TimeoutError("The operation timed out.")
        if self._waiter is None:
            self._begin(left)
        if self._listener is None:
            self._pause(now)
            return left
        return self._wait(left, now)

    def drop(self, task_ids: Collection[str]) -> None:
        """Wait for these no more."""
        if self._listener is not None and self._waiter is not None:
            self._listener.remove(self._waiter, [Topic(TASK, task_id) for task_id in task_ids])

    def _begin(self, left: set[str]) -> None:
        self._waiter = ThreadWaiter({Topic(TASK, task_id): 1 for task_id in left})
        layer = self._backend.listened_layer
        if layer is not None:
            self._listener = self.enter_context(watch(layer, self._waiter))
        self._look_at = clock.monotonic() + OWN_LOOK

    def _pause(self, now: float) -> None:
        pause = next(self._pauses)
        if self._end is not None:
            pause = min(pause, self._end - now)
        self._backend._sleep(pause)

    def _wait(self, left: set[str], now: float) -> set[str]:
        assert self._waiter is not None
        if self.is_round_over:
            self._round_at = now + self._interval
        until = self._round_at if self._end is None else min(self._round_at, self._end)
        self._waiter.wait(max(0.0, until - now))
        now = clock.monotonic()
        self.is_round_over = now >= self._round_at
        if now >= self._look_at or (self._end is not None and now >= self._end):
            # Nobody told: a last look, or one of those that need nobody.
            self._look_at = now + OWN_LOOK
            return left
        return {topic.name for topic in self._waiter.take()}
