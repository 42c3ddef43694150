"""The listeners of this process: one a layer, started by its first waiter."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from async_cache import threads
from async_cache.results.waiting.listener import Listener
from async_cache.results.waiting.waiters import Waiter

if TYPE_CHECKING:
    from async_cache.results.layers.base import Layer

__all__ = ["count_waiting", "stop", "watch"]

STOP_SECONDS: Final = 5.0


class _Listeners:
    """The listener of each layer that is waited on."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.by_layer: dict[Layer, Listener] = {}

    def get(self, layer: Layer) -> Listener | None:
        with self.lock:
            found = self.by_layer.get(layer)
            if found is not None and found.alive:
                return found
            # Those that ended went without a word.
            self.by_layer = {k: kept for k, kept in self.by_layer.items() if kept.alive}
            made = Listener(layer)
            if not made.start():
                return None
            self.by_layer[layer] = made
            return made


_listeners = _Listeners()


def _reset() -> None:
    global _listeners
    inherited, _listeners = _listeners, _Listeners()
    for listener in inherited.by_layer.values():
        listener.abandon()


threads.after_fork(_reset)


def are_threads_green() -> bool:
    """Tell whether gevent or eventlet took the place of threads: drivers in C would stop them."""
    gevent: Any = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_module_patched("threading"):
        return True
    eventlet: Any = sys.modules.get("eventlet.patcher")
    return eventlet is not None and bool(eventlet.is_monkey_patched("thread"))


@contextmanager
def watch(layer: Layer, waiter: Waiter) -> Iterator[Listener | None]:
    """Have a waiter told of what becomes ready in a layer, for as long as the block takes.

    He has looked before, and looks when he is told: the layer's listener looks after he is on its
    roll, so nothing is missed in between.

    Yields:
        Who tells him; None when nobody can, so that he has to ask.
    """
    listener = None
    if layer.shared and not are_threads_green():
        listener = _listeners.get(layer)
        if listener is not None and not listener.add(waiter):
            # Full; or it ended just now.
            listener = None if listener.alive else _listeners.get(layer)
            if listener is not None and not listener.add(waiter):
                listener = None
    try:
        yield listener
    finally:
        if listener is not None:
            listener.remove(waiter)


def count_waiting() -> int:
    """Return for how much this process waits."""
    return sum(len(listener) for listener in list(_listeners.by_layer.values()))


def stop(seconds: float = STOP_SECONDS) -> None:
    """End the threads that listen, and their connections; the next waiter starts one again.

    They end by themselves some seconds after the last waiter. Before a database is dropped is a
    moment to call it.

    Args:
        seconds: How long to wait for them.
    """
    for listener in list(_listeners.by_layer.values()):
        listener.stop()
        if listener.thread is not None and listener.thread is not threading.current_thread():
            listener.thread.join(seconds)
