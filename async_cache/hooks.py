"""Hooks on the end of a transaction, tied to its savepoints; Django is read, not patched."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from enum import Enum, auto
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.transaction import Atomic

__all__ = ["Countdown", "Ends", "Hook", "Root", "in_transaction", "manual", "recordable"]


def manual(connection: BaseDatabaseWrapper) -> bool:
    """Whether autocommit is off by hand: an ``atomic`` inside does not commit either."""
    if connection.connection is None or connection.autocommit:
        return False
    return not connection.in_atomic_block or not connection.commit_on_exit


def _first_block(connection: BaseDatabaseWrapper) -> int | None:
    """Return the place of the outermost ``atomic`` that is not a test case's."""
    if connection.in_atomic_block:
        for place, block in enumerate(connection.atomic_blocks):
            if not getattr(block, "_from_testcase", False):
                return place
    return None


def in_transaction(connection: BaseDatabaseWrapper) -> bool:
    """Whether a connection is in a transaction of the user's."""
    return _first_block(connection) is not None or manual(connection)


def recordable(connection: BaseDatabaseWrapper) -> bool:
    """Whether a connection is in a transaction whose end a hook will tell."""
    if connection.closed_in_transaction or manual(connection):
        return False
    return _first_block(connection) is not None


class Root:
    """The outermost block of one transaction, by which it is told from a later one.

    Outside tests Django's hooks suffice for that: they leave the list at commit. Inside a
    `TestCase` they stay, so the savepoint of the user's own outermost block decides. A block
    without one (``savepoint=False``) can be the same object twice: then it is not `certain`.
    """

    __slots__ = ("_block", "_place", "_savepoint", "certain")

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        place = _first_block(connection)
        self._place = place
        self._block: Atomic | None = None if place is None else connection.atomic_blocks[place]
        self._savepoint = connection.savepoint_ids[place - 1] if place else None
        self.certain = not place or self._savepoint is not None

    def open(self, connection: BaseDatabaseWrapper) -> bool:
        """Whether that block is still the outermost one of a usable connection."""
        place, blocks, sids = self._place, connection.atomic_blocks, connection.savepoint_ids
        if place is None or not connection.in_atomic_block or connection.closed_in_transaction:
            return False
        if len(blocks) <= place or blocks[place] is not self._block:
            return False
        return place == 0 or (len(sids) >= place and sids[place - 1] == self._savepoint)


class Ends(Enum):
    """Whose rollback takes a hook away, besides the transaction's."""

    ATOMIC_SAVEPOINT = auto()
    ANY_SAVEPOINT = auto()
    NO_SAVEPOINT = auto()


class _Earlier(set[str]):
    """The savepoints of a hook: those of ``atomic`` blocks, and all that are older than it.

    Django files a hook under the former only. A savepoint that is rolled back while the hook
    waits, and was made before it, was open when it was registered, whoever made it.
    """

    def __init__(self, sids: Iterable[str], made: int) -> None:
        super().__init__(sids)
        self._made = made

    def __contains__(self, sid: object) -> bool:
        if super().__contains__(sid):
            return True
        number = str(sid).rpartition("_x")[2]
        return not number.isdecimal() or int(number) <= self._made


class Hook:
    """One entry of ``run_on_commit``, alive while it stands there and its transaction is open.

    Only Django's list holds it, so it is freed when Django drops it. Being freed is not what
    counts, though: whatever else keeps a copy of the list, a hook that left it is dead.
    """

    __slots__ = ("__weakref__", "_callback", "_connection", "_place", "_root", "committed")

    def __init__(
        self,
        connection: BaseDatabaseWrapper,
        root: Root,
        ends: Ends,
        callback: Callable[[], object] | None = None,
    ) -> None:
        self._connection = weakref.ref(connection)
        self._root = root
        self._callback = callback
        self.committed = False
        connection.on_commit(self.run, robust=True)
        hooks: list[Any] = connection.run_on_commit
        self._place = len(hooks) - 1
        if ends is not Ends.ATOMIC_SAVEPOINT:
            sids, run, robust = hooks[-1]
            older = ends is Ends.ANY_SAVEPOINT
            sids = _Earlier(sids, connection.savepoint_state) if older else set()
            hooks[-1] = (sids, run, robust)

    def run(self) -> None:
        """Take note of the commit, once: a test may run captured hooks that stay in the list."""
        if not self.committed:
            self.committed = True
            if self._callback is not None:
                self._callback()

    def pending(self) -> bool:
        """Whether commit and rollback are both still possible."""
        connection = self._connection()
        if connection is None or self.committed or not self._root.open(connection):
            return False
        hooks = connection.run_on_commit
        # Django only appends, or makes a new list with entries left out: never further right.
        for place in range(min(self._place, len(hooks) - 1), -1, -1):
            if getattr(hooks[place][1], "__self__", None) is self:
                self._place = place
                return True
        self._place = -1
        return False


class Countdown:
    """A callback that waits for several commits."""

    __slots__ = ("_callback", "_left")

    def __init__(self, callback: Callable[[], object], commits: int) -> None:
        self._callback = callback
        self._left = commits

    def commit(self) -> None:
        """Count one commit; call back at the last."""
        self._left -= 1
        if self._left == 0:
            self._callback()
