"""What the verbs of a job return besides values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from async_cache import clock
from async_cache.effects import Io, Pause, Steps, arun, run
from async_cache.entry import Header, Status, open_entry
from async_cache.exceptions import EntryRejected
from async_cache.leases import Lease, Phase, task_id
from async_cache.policy import Decision, Failure, age, decide

if TYPE_CHECKING:
    from async_cache.addresses import Address
    from async_cache.targets import Runtime

__all__ = ["Explanation", "RefreshHandle", "explain"]

_POLL_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True)
class Explanation:
    """The state of one call, for people and monitoring. Times are seconds.

    Attributes:
        job: The job's name.
        key: Cache key of the entry, before the alias's ``make_key``.
        status: Fresh, stale or miss.
        reason: Why, as a phrase.
        age: Since the fetch of the stored value began; None for a miss.
        fresh_for: Until it turns stale; None when it never does, or has.
        servable_for: Until it may no longer be served; None for a miss.
        fetch_seconds: How long its fetch took.
        negative: Whether the stored answer is "does not exist".
        tags: The tags of the stored value.
        refresh: ``"queued"`` or ``"fetching"`` while a refresh is under way, else None.
        task_id: Id of the task that refreshes, or of who holds the lease.
        dispatches: Messages sent so far that no worker has answered.
        failures: Failed fetches in a row.
        last_error: Qualified name of the last failed fetch's exception, or an empty string.
        retry_after: Until the next fetch may be tried, 0 when it may.
        size: Bytes of the stored entry; 0 when there is none.
    """

    job: str
    key: str
    status: Status
    reason: str
    age: float | None = None
    fresh_for: float | None = None
    servable_for: float | None = None
    fetch_seconds: float | None = None
    negative: bool = False
    tags: tuple[str, ...] = ()
    refresh: str | None = None
    task_id: str | None = None
    dispatches: int = 0
    failures: int = 0
    last_error: str = ""
    retry_after: float = 0.0
    size: int = 0


@dataclass(frozen=True, slots=True)
class RefreshHandle:
    """A refresh handed to a worker by `refresh_later`.

    Attributes:
        task_id: Id of the task; when coalesced, of the one already under way.
        coalesced: Whether one was already under way, so that no message was sent.
    """

    task_id: str
    coalesced: bool
    _runtime: Runtime = field(repr=False, compare=False)
    _address: Address = field(repr=False, compare=False)
    _replaces: bytes = field(repr=False, compare=False)

    def wait(self, timeout: float) -> bool:
        """Wait until the value has been refreshed.

        Args:
            timeout: Longest wait in seconds.

        Returns:
            True once another entry than the one before is stored; False when the time ran out, or
            the refresh ended without storing one.

        Raises:
            StoreUnavailable: The cache does not answer.
        """
        return run(self._watch(timeout))

    async def await_(self, timeout: float) -> bool:
        """Do what `wait` does, without blocking the event loop."""
        return await arun(self._watch(timeout))

    def _watch(self, timeout: float) -> Steps[bool]:
        runtime, address = self._runtime, self._address
        deadline = clock.monotonic() + timeout
        ended = False
        while True:
            raws = yield Io(runtime, "read", address.handle)
            header = _opened(runtime, address, raws[0])
            if header is not None and header.entry_id != self._replaces:
                return True
            if ended or clock.monotonic() >= deadline:
                return False
            holders = yield Io(runtime, "holders", [address.lease])
            # Read once more after the lease is gone: the commit comes before its end.
            ended = holders[0] is None
            if not ended:
                yield Pause(min(_POLL_SECONDS, max(0.0, deadline - clock.monotonic())))


def _opened(runtime: Runtime, address: Address, raw: bytes | None) -> Header | None:
    if raw is None:
        return None
    try:
        header = open_entry(raw, address.opener)
        _ = header.tags  # they may be what does not open
    except EntryRejected:
        return None  # as good as none; readers announce it
    return header


def explain(runtime: Runtime, address: Address) -> Steps[Explanation]:
    """Return the state of a call; see `Explanation`."""
    raws = yield Io(runtime, "read", address.handle)
    header = _opened(runtime, address, raws[0])
    if header is not None and header.tags != address.tags:
        address.learn(header.tags)
        raws = yield Io(runtime, "read", address.handle)
        header = _opened(runtime, address, raws[0])
    (record,) = yield Io(runtime, "read", runtime.store.prepare([address.failure]))
    (holder,) = yield Io(runtime, "holders", [address.lease])
    return _explained(runtime, address, header, raws, Failure.decode(record), holder)


def _explained(
    runtime: Runtime,
    address: Address,
    header: Header | None,
    raws: list[bytes | None],
    failure: Failure | None,
    holder: Lease | None,
) -> Explanation:
    now = clock.now()
    if header is None:
        decision = Decision.ABSENT if raws[0] is None else Decision.REJECTED
    else:
        decision = decide(header, raws[1:], now)
    shown = header if decision.servable else None
    phase = None
    if holder is not None:
        phase = "fetching" if holder.phase is Phase.FETCHING else "queued"
    return Explanation(
        job=runtime.name,
        key=address.entry,
        status=decision.status,
        reason=decision.reason,
        age=age(shown, now) if shown else None,
        fresh_for=_left(shown.fresh_until, now) if shown else None,
        servable_for=_left(shown.dead_at, now) if shown else None,
        fetch_seconds=shown.fetch_seconds if shown else None,
        negative=bool(shown and shown.flags & 1),
        tags=shown.tags if shown else (),
        refresh=phase,
        task_id=task_id(holder.token) if holder else None,
        dispatches=holder.attempts if holder else 0,
        failures=failure.count if failure else 0,
        last_error=failure.error_type if failure else "",
        retry_after=failure.remaining(now) if failure else 0.0,
        size=len(raws[0] or b""),
    )


def _left(until: float, now: float) -> float | None:
    left = until - now
    return left if 0 < left < float("inf") else None
