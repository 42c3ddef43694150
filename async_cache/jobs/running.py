"""Run what a message asks for: the refresh as a worker does it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from async_cache import clock, signals, vary
from async_cache.attempts import Attempt, Purpose, State, new_token
from async_cache.effects import run
from async_cache.exceptions import UnknownJob
from async_cache.jobs.registry import get_job
from async_cache.refresh import refresh
from async_cache.signals import announce

if TYPE_CHECKING:
    from async_cache.messages import RefreshMessage
    from async_cache.targets import Runtime

__all__ = ["run_message"]


def run_message(message: RefreshMessage) -> list[State]:
    """Refresh the calls of a message in this process.

    Returns:
        How each call ended. A fetch that fails has left its record; nothing is raised for it.

    Raises:
        StoreUnavailable: The cache does not answer.
    """
    try:
        runtime = _runtime(message)
    except UnknownJob:
        for item in message.items:
            announce(signals.refresh_dropped, job=message.job, key=item.digest, reason="unknown")
        return []
    # Keys, tenants and languages are those of the reader, from the first address on.
    with vary.activate(message.context):
        attempts = []
        for item in message.items:
            address = runtime.address_of(item.call, message.context)
            # The message's token names the task; what follows tells two deliveries apart.
            token = item.token + new_token()[:4]
            queued = max(0.0, clock.now() - message.enqueued_at)
            attempts.append(Attempt(address, token, item.entry_id, queued=queued))
        if message.lost:
            _give_up(runtime, message)
        if not attempts:
            return []
        run(refresh(runtime, attempts, Purpose.RENEW))
        for attempt in attempts:
            if attempt.state is State.FOUND:
                runtime.tell(signals.refresh_dropped, attempt, reason="fresh")
            elif attempt.state is State.LOST:
                runtime.tell(signals.refresh_dropped, attempt, reason="held")
    return [attempt.state for attempt in attempts]


def _runtime(message: RefreshMessage) -> Runtime:
    job = get_job(message.job, message.module)
    made: Any = job(*message.constructor.args, **message.constructor.kwargs, **message.options)
    runtime: Runtime = made._runtime
    return runtime


def _give_up(runtime: Runtime, message: RefreshMessage) -> None:
    """Give back the leases of calls whose arguments are gone: a row that was deleted meanwhile."""
    keys = runtime.keyspace
    runtime.store.release(
        [(keys.lease(lost.digest), lost.token, keys.trace(lost.digest)) for lost in message.lost]
    )
    for lost in message.lost:
        announce(
            signals.refresh_dropped,
            sender=runtime.job_class,
            job=runtime.name,
            key=lost.digest,
            reason="gone",
        )
