"""What waiters wait for, and the connection on which a store tells of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Final, Literal, NamedTuple, TypeAlias

__all__ = ["GROUP", "NAME", "TASK", "Kind", "News", "Topic", "Wire"]

Kind: TypeAlias = Literal["task", "name", "group"]
TASK: Final[Kind] = "task"
NAME: Final[Kind] = "name"
GROUP: Final[Kind] = "group"


class Topic(NamedTuple):
    """A task by its id, a task by its name, or a group."""

    kind: Kind
    name: str


class News(NamedTuple):
    """Something became ready.

    Attributes:
        topic: What.
        ended: Of a group, how many members ended, where the store tells; else None.
    """

    topic: Topic
    ended: int | None = None


class Wire(ABC):
    """A connection on which a store tells of what becomes ready; for the use of one thread.

    Each method may raise whatever the connection raises: then it is of no more use.
    """

    @abstractmethod
    def fileno(self) -> int:
        """Return what to wait on until there is something to `hear`."""

    @abstractmethod
    def follow(self, topics: Collection[Topic]) -> None:
        """Return once the store tells of these topics too."""

    @abstractmethod
    def leave(self, topics: Collection[Topic]) -> None:
        """Want no more news of these topics; some may still come."""

    @abstractmethod
    def hear(self) -> list[News]:
        """Return what was told since the last time, without waiting."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""
