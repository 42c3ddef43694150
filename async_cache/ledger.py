"""Records that end with the savepoint they were made in, found through their connection."""

from __future__ import annotations

import asyncio
import itertools
import threading
import weakref
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from async_cache.hooks import Ends, Hook, Root

__all__ = [
    "MAX_FRAMES",
    "MAX_HELD",
    "MAX_NAMES",
    "MAX_VERSIONS",
    "Held",
    "Ledger",
    "active",
    "ledger_of",
    "live_ledgers",
]

MAX_NAMES: Final = 10_000
"""Invalidated names of one transaction; past it every name counts as invalidated."""
MAX_HELD: Final = 1_000
"""Values held by one transaction; past it the oldest goes."""
MAX_VERSIONS: Final = 16
"""Values of one key in the nested savepoints of a transaction; past it the oldest goes."""
MAX_FRAMES: Final = 10_000
"""Savepoints with records; past it nothing is held and every name counts as invalidated."""

_ATTRIBUTE: Final = "_async_cache_ledger"
_serials: Final = itertools.count(1)


def active() -> bool:
    """Whether this thread, or the transaction around this coroutine, has live records."""
    return (_thread.marked or bool(_around.get())) and bool(live_ledgers())


class _Frame(Hook):
    """The hook of all records made under the same savepoints of one connection."""

    __slots__ = ("held", "mark")

    def __init__(self, connection: BaseDatabaseWrapper, ends: Ends) -> None:
        super().__init__(connection, Root(connection), ends)
        self.mark = _mark(connection, ends)
        self.held: dict[int, Held] = {}

    def run(self) -> None:
        for record in self.held.values():
            record.committed(self)
        self.held.clear()
        super().run()


def _mark(connection: BaseDatabaseWrapper, ends: Ends) -> tuple[object, ...]:
    """Return what two records have in common that end together."""
    made = connection.savepoint_state if ends is Ends.ANY_SAVEPOINT else None
    return (made, frozenset(connection.savepoint_ids))


class Held:
    """A value, and the connections whose rollback would take it back."""

    __slots__ = ("__weakref__", "_frames", "payload", "scopes", "serial")

    def __init__(self, payload: Any, scopes: tuple[str, ...], frames: Sequence[_Frame]) -> None:
        self.payload = payload
        self.scopes = scopes
        self.serial = next(_serials)
        self._frames = [weakref.ref(frame) for frame in frames]
        for frame in frames:
            frame.held[self.serial] = self

    def committed(self, frame: _Frame) -> None:
        """Go on without a connection that has committed."""
        self._frames = [left for left in self._frames if left() is not frame]

    def drop(self) -> None:
        """Let go of the value now."""
        for reference in self._frames:
            frame = reference()
            if frame is not None:
                frame.held.pop(self.serial, None)
        self._frames = []
        self.payload = None

    def replaces(self, other: Held) -> bool:
        """Whether another record could never outlive this newer one."""
        return self._frames == other._frames

    def alive(self) -> bool:
        """Whether nothing of it is rolled back, and not everything committed."""
        return bool(self._frames) and all(_pending(frame) for frame in self._frames)


def _pending(reference: weakref.ref[_Frame]) -> bool:
    frame = reference()
    return frame is not None and frame.pending()


class _Note(NamedTuple):
    """One invalidation: what it ends with, and when it was among all records."""

    frame: weakref.ref[_Frame]
    serial: int


def _live(note: _Note, since: int) -> bool:
    return note.serial > since and _pending(note.frame)


class Ledger:
    """Where the records of one connection are found; its frames, in Django's list, own them."""

    __slots__ = ("__weakref__", "_everything", "_frames", "_held", "_names", "_open")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget where the records were."""
        self._frames: list[weakref.ref[_Frame]] = []
        self._open: dict[Ends, weakref.ref[_Frame]] = {}
        self._names: dict[str, list[_Note]] = {}
        self._held: dict[str, list[weakref.ref[Held]]] = {}
        self._everything: _Note | None = None

    def alive(self) -> bool:
        """Whether there may be a live record."""
        return any(_pending(frame) for frame in reversed(self._frames))

    def frame(self, connection: BaseDatabaseWrapper, ends: Ends) -> _Frame | None:
        """Return the frame for a record made now; None when there are too many."""
        reference = self._open.get(ends)
        frame = reference() if reference is not None else None
        if frame is not None and frame.pending() and frame.mark == _mark(connection, ends):
            return frame
        while self._frames and not _pending(self._frames[-1]):
            self._frames.pop()
        if not self._frames:
            self.clear()
        if ends is not Ends.NO_SAVEPOINT and len(self._frames) >= MAX_FRAMES:
            return None
        frame = _Frame(connection, ends)
        self._open[ends] = weakref.ref(frame)
        self._frames.append(weakref.ref(frame))
        return frame

    def note(self, connection: BaseDatabaseWrapper, names: Iterable[str]) -> bool:
        """Record invalidated names; return whether one is new."""
        serial, new = next(_serials), False
        for name in names:
            frame = self.frame(connection, Ends.ATOMIC_SAVEPOINT)
            notes = [note for note in self._names.get(name, ()) if _pending(note.frame)]
            new = new or not notes
            if frame is None or (name not in self._names and len(self._names) >= MAX_NAMES):
                frame = self.frame(connection, Ends.NO_SAVEPOINT)
                self._everything = _Note(weakref.ref(frame), serial) if frame is not None else None
                return True
            if notes and (notes[-1].frame() is frame or len(notes) >= MAX_VERSIONS):
                notes[-1] = _Note(notes[-1].frame, serial)
            else:
                notes.append(_Note(weakref.ref(frame), serial))
            self._names[name] = notes
        return new

    def noted(self, names: Iterable[str], since: int = 0) -> bool:
        """Whether one of the names is recorded as invalidated, later than a serial number."""
        if self._everything is not None and _live(self._everything, since):
            return True
        return any(_live(note, since) for name in names for note in self._names.get(name, ()))

    def keep(self, key: str, record: Held) -> None:
        """Record a held value as the newest one of its key."""
        kept = [held for left in self._held.pop(key, ()) if (held := left()) and held.alive()]
        if kept and kept[-1] is not record and record.replaces(kept[-1]):
            kept.pop().drop()
        kept.append(record)
        for held in kept[:-MAX_VERSIONS]:
            held.drop()
        self._held[key] = [weakref.ref(held) for held in kept[-MAX_VERSIONS:]]
        if len(self._held) > MAX_HELD:
            # The whole key: an older value must not come to light because a newer one went.
            for left in self._held.pop(next(iter(self._held))):
                if oldest := left():
                    oldest.drop()

    def newest(self, key: str) -> Held | None:
        """Return the newest live value of a key."""
        for reference in reversed(self._held.get(key, ())):
            record = reference()
            if record is not None and record.alive():
                return record
        return None


class _Thread(threading.local):
    """Whether a connection of this thread may have live records."""

    marked: bool = False


_thread: Final = _Thread()
# The ledgers of the thread that waits for this coroutine, carried over by `async_to_sync`.
_around: Final[ContextVar[tuple[weakref.ref[Ledger], ...]]] = ContextVar(
    "async_cache.transactions", default=()
)


def ledger_of(connection: BaseDatabaseWrapper) -> Ledger:
    """Return a connection's ledger and make it known to `active`."""
    state = vars(connection)
    ledger: Ledger | None = state.get(_ATTRIBUTE)
    if ledger is None:
        ledger = state[_ATTRIBUTE] = Ledger()
    _thread.marked = True
    around = _around.get()
    if not any(reference() is ledger for reference in around):
        known = [left for left in around if (other := left()) is not None and other.alive()]
        _around.set((*known, weakref.ref(ledger)))
    return ledger


def live_ledgers() -> list[Ledger]:
    """Return the ledgers with live records that the caller may see."""
    found: list[Ledger] = []
    if _thread.marked:
        for connection in connections.all(initialized_only=True):
            ledger = vars(connection).get(_ATTRIBUTE)
            if ledger is None:
                continue
            if ledger.alive():
                found.append(ledger)
            else:
                ledger.clear()
    if asyncio._get_running_loop() is not None:
        for reference in _around.get():
            ledger = reference()
            if ledger is not None and ledger not in found and ledger.alive():
                found.append(ledger)
    elif not found:
        _thread.marked = False
    if not found:
        _around.set(())
    return found
