"""Wait until a record or a group has ended: told by the store, up to a bound."""

from __future__ import annotations

from async_cache.results.waiting.asking import OWN_LOOK, await_until, bound, pauses, wait_until
from async_cache.results.waiting.listener import Listener
from async_cache.results.waiting.registry import count_waiting, stop, watch
from async_cache.results.waiting.topics import GROUP, NAME, TASK, News, Topic, Wire
from async_cache.results.waiting.waiters import LoopWaiter, ThreadWaiter

__all__ = [
    "GROUP",
    "NAME",
    "OWN_LOOK",
    "TASK",
    "Listener",
    "LoopWaiter",
    "News",
    "ThreadWaiter",
    "Topic",
    "Wire",
    "await_until",
    "bound",
    "count_waiting",
    "pauses",
    "stop",
    "wait_until",
    "watch",
]
