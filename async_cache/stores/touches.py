"""When a stamp's life was last renewed from here, so that not every commit does it again."""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["Touches"]

MAX_NAMES = 10_000


class Touches:
    """A bounded memory of renewals; what is forgotten is merely renewed once more."""

    def __init__(self, cap: int = MAX_NAMES) -> None:
        self._cap = cap
        self._at: OrderedDict[str, float] = OrderedDict()

    def due(self, name: str, needed: float, life: float, now: float) -> bool:
        """Tell whether a stamp renewed to ``life`` might by now last less than ``needed``.

        True also notes the renewal that the caller is about to make.
        """
        at = self._at.get(name)
        if at is not None and now - at + needed < life:
            return False
        self.note(name, now)
        return True

    def note(self, name: str, now: float) -> None:
        """Remember that a stamp has its full life before it."""
        self._at[name] = now
        while len(self._at) > self._cap:
            self._at.popitem(last=False)
