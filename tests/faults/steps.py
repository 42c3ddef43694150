"""Stops before every command of a real cache, at which others may do something."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from async_cache.stores.base import Store
from async_cache.stores.redis import RedisStore
from async_cache.threads import close_connections

__all__ = ["Steps", "stepping"]

SECONDS = 30.0


class Steps:
    """Counts the commands of one caller and lets others act before any of them.

    Attributes:
        passed: Commands of the caller so far.
        others: What happens before each command, given its number; in a thread of its own, whose
            commands are not counted.
    """

    def __init__(self) -> None:
        self.passed = 0
        self.others: Callable[[int], None] | None = None
        self._busy = False
        self._thread = ThreadPoolExecutor(1)

    def stop(self) -> None:
        """Stand before a command."""
        if self._busy or self.others is None:
            return
        self.passed += 1
        others, number = self.others, self.passed
        self.elsewhere(lambda: others(number))

    def elsewhere(self, work: Callable[[], Any]) -> Any:
        """Do something as another caller does; the commands of this are not counted."""
        self._busy = True
        try:
            return self._thread.submit(work).result(SECONDS)
        finally:
            self._busy = False

    def close(self) -> None:
        """End the other thread."""
        self._thread.submit(close_connections).result(SECONDS)
        self._thread.shutdown()


@contextmanager
def stepping(store: Store) -> Iterator[Steps]:
    """Stop before each command that a store sends."""
    steps = Steps()
    names = ("_carry", "read") if isinstance(store, RedisStore) else ("_perform",)

    def before(command: Callable[..., Any]) -> Callable[..., Any]:
        def stopped(*args: Any) -> Any:
            steps.stop()
            return command(*args)

        return stopped

    for name in names:
        setattr(store, name, before(getattr(store, name)))
    try:
        yield steps
    finally:
        for name in names:
            delattr(store, name)
        steps.close()
