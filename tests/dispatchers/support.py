"""Jobs without users' code, to test the publisher and the dispatchers over a real store."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from django.dispatch import Signal

from async_cache.dispatchers.base import Dispatcher, Refresh, RefreshRequest
from async_cache.exceptions import DispatchFailed
from async_cache.keys import Call
from async_cache.leases import Lease, Phase
from async_cache.messages import RefreshItem, RefreshMessage
from async_cache.policy import RefreshPolicy
from async_cache.stores.base import Claim, Store
from async_cache.stores.django import DjangoStore

SECONDS = 30.0
"""How long a test waits for what must come; it comes much sooner."""


class Recorder(Dispatcher):
    """Takes messages and keeps them; can be told to fail, to refuse or to block."""

    name = "recorder"

    def __init__(self, *, inline: bool = False) -> None:
        self._inline = inline
        self.taken: list[Refresh] = []
        self.tries = 0
        self.failing = False
        self.refuses: set[str] = set()
        self.on_dispatch: Callable[[Refresh], object] | None = None
        self._changed = threading.Condition()

    @property
    def inline(self) -> bool:
        return self._inline

    def dispatch(self, refresh: Refresh) -> None:
        with self._changed:
            self.tries += 1
            self._changed.notify_all()
        if self.on_dispatch is not None:
            self.on_dispatch(refresh)
        if self.failing:
            raise DispatchFailed("The test says so.")
        if self.refuses & {item.digest for item in refresh.message.items}:
            raise ValueError("The test says so.")
        with self._changed:
            self.taken.append(refresh)
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[Recorder], object], seconds: float = SECONDS) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: bool(condition(self)), seconds), self.digests

    @property
    def digests(self) -> list[list[str]]:
        return [[item.digest for item in refresh.message.items] for refresh in self.taken]


@dataclass(eq=False)
class Address:
    digest: str
    context: tuple[tuple[str, str], ...] = ()

    @property
    def call(self) -> Call:
        return Call((self.digest,), {})

    def __getattr__(self, name: str) -> str:
        if name in {"entry", "lease", "trace"}:
            return f"{name}:{self.digest}"
        raise AttributeError(name)


@dataclass(eq=False)
class Runtime:
    """What the publisher sees of a job."""

    dispatcher: Dispatcher
    name: str = "tests.Job"
    alias: str = "default"
    coalesces: bool = False
    queued_grace: float = 10.0
    queue: str | None = None
    task_options: Mapping[str, Any] = field(default_factory=dict)
    policy: RefreshPolicy = field(default_factory=RefreshPolicy)
    store: Store = field(default_factory=lambda: DjangoStore("default", 1000.0))
    job_class: type = object

    def claim(self, address: Address, token: bytes, phase: Phase) -> Claim:
        return Claim(address.lease, token, phase, self.queued_grace, address.trace, life=100.0)

    def message(
        self,
        items: Sequence[RefreshItem],
        context: tuple[tuple[str, str], ...],
        now: float,
        expires_at: float,
    ) -> RefreshMessage:
        return RefreshMessage(
            self.name,
            1,
            Call((), {}),
            tuple(items),
            context,
            enqueued_at=now,
            expires_at=expires_at,
        )

    def request(self, digest: str, **context: str) -> RefreshRequest:
        address = Address(digest, tuple(context.items()))
        return RefreshRequest(self, address, b"\1" * 8, b"stamps")  # type: ignore[arg-type]

    def lease(self, digest: str) -> Lease | None:
        return self.store.holders([f"lease:{digest}"])[0]


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


def eventually(condition: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """Return the condition's value once it is true; only for what no event announces."""
    deadline = time.monotonic() + seconds
    for pause in itertools.chain((0.001,) * 50, itertools.repeat(0.01)):
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(pause)
    raise AssertionError
