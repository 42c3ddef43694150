"""What the tests of jobs share: a dispatcher that keeps messages, jobs whose fetch can be held."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.dispatch import Signal

from async_cache import worker
from async_cache.dispatchers.base import Dispatcher, Refresh
from async_cache.exceptions import DispatchFailed
from async_cache.messages import seal_message
from async_cache.secret_keys import get_ring

SECONDS = 30.0
"""How long a test waits for what must come; it comes much sooner."""


class Shelf(Dispatcher):
    """Keeps messages until the test runs them; publishes in the reader's thread."""

    name = "shelf"

    def __init__(self) -> None:
        self.messages: list[Refresh] = []
        self.failing = False

    @property
    def inline(self) -> bool:
        return True

    def dispatch(self, refresh: Refresh) -> None:
        if self.failing:
            raise DispatchFailed("The test says so.")
        self.messages.append(refresh)

    def run(self) -> dict[str, int]:
        """Do what a worker does with the oldest message, which travels as sealed text."""
        message = self.messages.pop(0).message
        return worker.run_sealed(seal_message(message, get_ring()))

    def run_all(self) -> None:
        while self.messages:
            self.run()


class Gate:
    """Holds a fetch at one place until the test lets it go on."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self) -> None:
        self.entered.set()
        assert self.opened.wait(SECONDS), "the test never opened the gate"


class Caller:
    """A call in a thread of its own."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._value: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:  # noqa: BLE001 - raised in the test's thread
            self._error = error

    def blocked(self) -> Caller:
        """Return once the call waits for another thread; what it waits for announces nothing."""
        deadline = time.monotonic() + SECONDS
        while self._thread.is_alive():
            frame = sys._current_frames().get(self._thread.ident or 0)
            if frame is not None and frame.f_code is threading.Condition.wait.__code__:
                break
            assert time.monotonic() < deadline, "the call does not wait"
            time.sleep(0.001)
        return self

    def result(self) -> Any:
        self._thread.join(SECONDS)
        assert not self._thread.is_alive(), "the call did not end"
        if self._error is not None:
            raise self._error
        return self._value


@contextmanager
def heard(*signals: Signal) -> Iterator[list[dict[str, Any]]]:
    """Collect what is announced."""
    events: list[dict[str, Any]] = []

    def listen(**payload: Any) -> None:
        events.append(payload)

    for signal in signals:
        signal.connect(listen)
    try:
        yield events
    finally:
        for signal in signals:
            signal.disconnect(listen)
