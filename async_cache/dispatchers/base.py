"""The contract of a dispatcher: hand one message to whoever will refresh."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from async_cache.stores.base import Claim, Phase, Store

if TYPE_CHECKING:
    from async_cache.messages import RefreshItem, RefreshMessage
    from async_cache.policy import RefreshPolicy

__all__ = ["Dispatcher", "Refresh", "RefreshRequest", "RequestAddress", "RequestRuntime"]


class RequestAddress(Protocol):
    """What the publisher needs to know of a call; `targets.Address` has it."""

    call: Any
    context: tuple[tuple[str, str], ...]
    digest: str
    entry: str
    lease: str
    trace: str


class RequestRuntime(Protocol):
    """What the publisher needs to know of a job; `targets.Runtime` has it."""

    alias: str
    coalesces: bool
    job_class: type
    name: str
    policy: RefreshPolicy
    queue: str | None
    queued_grace: float
    store: Store
    task_options: Mapping[str, Any]

    @property
    def dispatcher(self) -> Dispatcher:
        """What hands refreshes to workers."""

    def claim(self, address: Any, token: bytes, phase: Phase) -> Claim:
        """Return the claim of a call's lease."""

    def message(
        self,
        items: Sequence[RefreshItem],
        context: tuple[tuple[str, str], ...],
        now: float,
        expires_at: float,
    ) -> RefreshMessage:
        """Return the message that asks a worker to refresh these calls."""


class RefreshRequest(NamedTuple):
    """A reader's wish to have one call refreshed.

    Attributes:
        runtime: The job.
        address: The call.
        entry_id: Id of the entry that the refresh replaces; zeros when there was none.
        stamps: Stamps in force when the entry was found stale, for the guard.
    """

    runtime: RequestRuntime
    address: RequestAddress
    entry_id: bytes
    stamps: bytes = b""


class Refresh(NamedTuple):
    """One message on its way to a worker.

    Attributes:
        task_id: Names it; the lease token of its keys as a UUID.
        message: What is to be refreshed; sealed by those dispatchers that hand it to others.
        queue: The job's ``queue``.
        options: The job's ``task_options``.
        expires: Seconds after which nobody needs to begin.
        fetch_timeout: The job's limit of one fetch, in seconds.
        keys: How many calls it refreshes.
        summary: What may be shown of it in logs and monitors: the job's name and a digest.
    """

    task_id: str
    message: RefreshMessage
    queue: str | None = None
    options: Mapping[str, Any] = MappingProxyType({})
    expires: float = 3600.0
    fetch_timeout: float = 30.0
    keys: int = 1
    summary: str = ""


class Dispatcher(ABC):
    """Hands refreshes to workers. One instance a process; used by several threads.

    Attributes:
        name: What it is called in ``ASYNC_CACHE`` and in announcements.
    """

    name: str

    @property
    def inline(self) -> bool:
        """Whether the refresh runs inside `dispatch`, hence in the thread of the reader."""
        return False

    @property
    def needs_worker(self) -> bool:
        """Whether a refresh waits for a process that the project has to start."""
        return True

    def prepare(self) -> None:  # noqa: B027 - a hook with a default
        """Import and set up what the first `dispatch` needs; contact nobody."""

    @abstractmethod
    def dispatch(self, refresh: Refresh) -> None:
        """Hand over one message.

        Raises:
            DispatchFailed: Nobody takes messages now; it should be tried again in a while.
            Exception: This message cannot be taken, now or later.
        """

    def close(self) -> None:  # noqa: B027 - a hook with a default
        """Give back what `dispatch` keeps open; a later `dispatch` opens it again."""
