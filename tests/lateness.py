"""How late a busy machine is: what a test of a promised time adds to its bound."""

from __future__ import annotations

import threading
import time
from typing import Self

TICK = 0.01


class Lateness:
    """Adds up how much later than asked a thread of this process wakes while the block runs."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        begun = time.monotonic()
        while not self._ended.wait(TICK):
            now = time.monotonic()
            late = now - begun - TICK
            # An idle machine is late by less than a tick.
            self.seconds += late if late > TICK else 0.0
            begun = now

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
