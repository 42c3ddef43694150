"""The validated protocol under many schedules, each command of the store a switch point.

Random priorities that change at a few random steps reach rare schedules quickly. Fetches count up,
so a reader that accepts an older one after a newer one has been fooled by a straggler.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence

import pytest

from async_cache.entry import new_stamp
from async_cache.stores import validated
from async_cache.stores.base import Claim, Commit, Phase
from async_cache.stores.validated import ValidatedStore

STEPS = 70


class Scheduler:
    """Runs actors in threads, one at a time, switching where they say so."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._turns: dict[str, threading.Semaphore] = {}
        self._back = threading.Semaphore(0)
        self._current = ""
        self._errors: list[BaseException] = []

    def spawn(self, name: str, work: Callable[[], None]) -> None:
        turn = self._turns[name] = threading.Semaphore(0)

        def run() -> None:
            turn.acquire()
            try:
                work()
            except Exception as error:  # noqa: BLE001  (raised again by run)
                self._errors.append(error)
            del self._turns[name]
            self._back.release()

        threading.Thread(target=run, daemon=True).start()

    def switch(self) -> None:
        turn = self._turns[self._current]
        self._back.release()
        turn.acquire()

    def run(self, check: Callable[[], None]) -> None:
        ranks = {name: self._rng.random() for name in self._turns}
        changes = {self._rng.randrange(STEPS) for _ in range(self._rng.randint(1, 4))}
        step = 0
        while self._turns:
            self._current = max(self._turns, key=lambda name: ranks[name])
            if step in changes:
                ranks[self._current] = -1.0 - step
                self._current = max(self._turns, key=lambda name: ranks[name])
            step += 1
            self._turns[self._current].release()
            self._back.acquire()
            if self._errors:
                raise self._errors[0]
            check()


class SwitchingStore(ValidatedStore):
    """A dictionary whose every command lets another actor go first."""

    alias = "switching"

    def __init__(self, switch: Callable[[], None]) -> None:
        super().__init__()
        self.data: dict[str, bytes] = {}
        self._switch = switch

    def get_many(self, names: Sequence[str]) -> dict[str, object]:
        found: dict[str, object] = {}
        for name in names:
            self._switch()
            if name in self.data:
                found[name] = self.data[name]
        return found

    def set(self, name: str, value: bytes, seconds: float) -> None:
        self._switch()
        self.data[name] = value

    def add(self, name: str, value: bytes, seconds: float) -> bool:
        self._switch()
        return self.data.setdefault(name, value) is value

    def touch(self, name: str, seconds: float) -> bool:
        self._switch()
        return name in self.data

    def delete_many(self, names: Sequence[str]) -> None:
        for name in names:
            self._switch()
            self.data.pop(name, None)

    def close(self) -> None:
        """Nothing to close."""


class Scene:
    """Three refreshers, a dispatcher, three leases that end too early, and an invalidation."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.scheduler = Scheduler(self.rng)
        self.store = SwitchingStore(self.scheduler.switch)
        self.fetches = 0
        self.invalidated = 0
        self.accepted = 0

    def claim(self, token: bytes, phase: Phase) -> bytes | None:
        claim = Claim(
            "l", token, phase, 10, "t", 100, ("hard", "soft"), 1000, ("e",), soft_stamp="soft"
        )
        [claimed] = self.store.claim([claim])
        return b"".join(claimed.stamps) if claimed.won else None

    def refresh(self, token: bytes) -> None:
        stamps = self.claim(token, Phase.FETCHING)
        if stamps is None:
            return
        self.scheduler.switch()
        self.fetches += 1
        entry = b"%d|%b" % (self.fetches, stamps)
        self.scheduler.switch()
        expect = (("hard", stamps[:12]),)
        self.store.commit([Commit("l", token, "t", (("e", entry, 100),), expect)])

    def dispatch(self) -> None:
        if self.claim(b"q", Phase.QUEUED) and self.rng.random() < 0.5:
            self.store.release([("l", b"q", "t")])

    def end_lease(self) -> None:
        self.store.data.pop("l", None)
        if self.rng.random() < 0.5:
            self.store.data.pop("l.q", None)

    def invalidate(self) -> None:
        self.scheduler.switch()
        self.fetches += 1
        fetches = self.fetches
        self.store.put([("hard", new_stamp(), 1000)])
        self.invalidated = fetches

    def check(self) -> None:
        data = self.store.data
        number, _, stamps = data.get("e", b"").partition(b"|")
        if number and stamps == data.get("hard", b"") + data.get("soft", b""):
            assert int(number) >= self.accepted, "an older fetch was accepted after a newer one"
            assert int(number) > self.invalidated, "an invalidation was lost"
            self.accepted = int(number)

    def play(self) -> None:
        for i in range(3):
            self.scheduler.spawn(f"r{i}", lambda token=b"r%d" % i: self.refresh(token))  # type: ignore[misc]
            self.scheduler.spawn(f"x{i}", self.end_lease)
        self.scheduler.spawn("q", self.dispatch)
        self.scheduler.spawn("w", self.invalidate)
        self.scheduler.run(self.check)


def play(scenes: int) -> None:
    for seed in range(scenes):
        Scene(seed).play()


def test_no_schedule_fools_a_reader() -> None:
    play(2_000)


def test_without_new_soft_stamps_some_schedule_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validated, "may_still_write", lambda *_: False)
    with pytest.raises(AssertionError, match="an older fetch was accepted"):
        play(20_000)
