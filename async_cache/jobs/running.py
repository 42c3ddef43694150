"""Run what a message asks for: the refresh as a worker does it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from django.utils.module_loading import import_string

from async_cache import signals, vary
from async_cache.effects import run
from async_cache.exceptions import UnknownJob
from async_cache.jobs.registry import get_job
from async_cache.refresh import Attempt, Purpose, State, new_token, refresh
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
    except UnknownJob as error:
        for item in message.items:
            announce(signals.refresh_dropped, job=message.job, key=item.digest, reason="unknown")
        signals.logger.warning("A refresh was dropped: %s", error)
        return []
    # Keys, tenants and languages are those of the reader, from the first address on.
    with vary.activate(message.context):
        attempts = []
        for item in message.items:
            address = runtime.address_of(item.call, message.context)
            # The message's token names the task; what follows tells two deliveries apart.
            token = item.token + new_token()[:4]
            attempts.append(Attempt(address, token, item.entry_id))
        run(refresh(runtime, attempts, Purpose.RENEW))
        for attempt in attempts:
            if attempt.state is State.FOUND:
                runtime.tell(signals.refresh_dropped, attempt, reason="fresh")
            elif attempt.state is State.LOST:
                runtime.tell(signals.refresh_dropped, attempt, reason="held")
    return [attempt.state for attempt in attempts]


def _runtime(message: RefreshMessage) -> Runtime:
    job = get_job(message.job)
    made: Any = job(
        *message.constructor.args, **message.constructor.kwargs, **_options(message.options)
    )
    runtime: Runtime = made._runtime
    return runtime


def _options(options: Mapping[str, Any]) -> Mapping[str, Any]:
    if "negative" not in options:
        return options
    return {**options, "negative": tuple(import_string(path) for path in options["negative"])}
