"""The wire of a layer, kept open where it can be: opened again after pauses that grow."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from async_cache import clock
from async_cache.results.waiting.topics import News, Topic, Wire

__all__ = ["Line"]

logger = logging.getLogger("async_cache.results")

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 60.0


class Line:
    """What a listener hears on, down or up. No trouble of the wire reaches its caller.

    Args:
        name: Of the layer, for the log.
        open_wire: Opens a wire; returns None where the layer's store tells nothing.
    """

    def __init__(self, name: str, open_wire: Callable[[], Wire | None]) -> None:
        self._name = name
        self._open_wire = open_wire
        self.wire: Wire | None = None
        self._followed: set[Topic] = set()
        self._retry_at: float | None = 0.0
        self._pause = FIRST_PAUSE

    @property
    def retry_at(self) -> float | None:
        """When a wire is opened next; None while there is one, or where there can be none."""
        return self._retry_at

    def adjust(self, topics: set[Topic]) -> bool:
        """Be told of exactly these topics from now on.

        Returns:
            Whether the wire is new, so that something may have gone untold before.
        """
        opened = False
        try:
            if self._retry_at is not None and clock.monotonic() >= self._retry_at:
                self.wire, self._retry_at = self._open_wire(), None
                self._followed = set()
                opened = self.wire is not None
            if self.wire is not None and topics != self._followed:
                if new := topics - self._followed:
                    self.wire.follow(new)
                if old := self._followed - topics:
                    self.wire.leave(old)
                self._followed = set(topics)
        except Exception as error:  # noqa: BLE001 - whatever a connection raises
            self.lose(f"{type(error).__name__}: {error}")
            return False
        return opened

    def hear(self) -> list[News]:
        """Return what was told."""
        if self.wire is None:
            return []
        try:
            news = self.wire.hear()
        except Exception as error:  # noqa: BLE001 - whatever a connection raises
            self.lose(f"{type(error).__name__}: {error}")
            return []
        if news:
            self._pause = FIRST_PAUSE
        return news

    def fileno(self) -> int:
        """Return what to wait on; -1 while there is nothing."""
        if self.wire is None:
            return -1
        try:
            return self.wire.fileno()
        except Exception as error:  # noqa: BLE001 - whatever a connection raises
            self.lose(f"{type(error).__name__}: {error}")
            return -1

    def lose(self, reason: str) -> None:
        """Give the wire up; open another after a pause."""
        logger.warning(
            "%s tells of no results for the next %.1f s, it is asked instead: %s",
            self._name,
            self._pause,
            reason,
        )
        self.close()
        self._retry_at = clock.monotonic() + self._pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE)

    def close(self) -> None:
        """Close the wire."""
        wire, self.wire = self.wire, None
        if wire is None:
            return
        try:
            wire.close()
        except Exception as error:  # noqa: BLE001 - it was broken before
            logger.debug("%s: closing the wire failed: %s", self._name, type(error).__name__)
