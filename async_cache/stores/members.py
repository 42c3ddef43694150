"""The keys that a job has, counted in this process, for stores that cannot count."""

from __future__ import annotations

import threading
from collections import OrderedDict

__all__ = ["Members"]

MAX_SETS = 1_000


class Members:
    """Sets of names that expire, each with a cap given by who asks.

    A set never grows past its cap, and the least recently used of too many sets is forgotten.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sets: OrderedDict[str, dict[str, float]] = OrderedDict()

    def has_room(self, name: str, member: str, cap: int, now: float) -> bool:
        """Tell whether ``member`` is in the set or would still fit."""
        with self._lock:
            return self._fits(self._sets.get(name, {}), member, cap, now)

    def join(self, name: str, member: str, cap: int, now: float, until: float) -> bool:
        """Put ``member`` in the set until then; False when it does not fit."""
        with self._lock:
            members = self._sets.setdefault(name, {})
            self._sets.move_to_end(name)
            if len(self._sets) > MAX_SETS:
                self._sets.popitem(last=False)
            if not self._fits(members, member, cap, now):
                return False
            members[member] = until
            return True

    def reserve(self, name: str, member: str, cap: int, now: float, until: float) -> None:
        """Let ``member`` take a place until then at least, where there is room."""
        with self._lock:
            held = self._sets.get(name, {}).get(member, 0.0)
        if held < until:
            self.join(name, member, cap, now, until)

    def forget(self, name: str) -> None:
        """Drop a whole set, there or not."""
        with self._lock:
            self._sets.pop(name, None)

    @staticmethod
    def _fits(members: dict[str, float], member: str, cap: int, now: float) -> bool:
        if member in members or len(members) < cap:
            return True
        for name in [name for name, until in members.items() if until <= now]:
            del members[name]
        return len(members) < cap
