"""What a worker does with a message, whoever brought it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from async_cache import clock
from async_cache.exceptions import MessageRejected
from async_cache.jobs import running
from async_cache.messages import open_message
from async_cache.secret_keys import get_ring
from async_cache.signals import announce, refresh_dropped

if TYPE_CHECKING:
    from async_cache.messages import RefreshMessage

__all__ = ["run_message", "run_sealed"]


def run_message(message: RefreshMessage) -> dict[str, int]:
    """Run the refresh that a message asks for.

    Returns:
        How many of its calls came to which end; never a value.
    """
    return dict(Counter(state.value for state in running.run_message(message)))


def run_sealed(text: str) -> dict[str, int]:
    """Open a sealed message and run it; one that does not open is dropped and announced.

    Returns:
        How many calls came to which end.
    """
    try:
        message = open_message(text, get_ring(), clock.now())
    except MessageRejected as error:
        announce(refresh_dropped, job="", key="", reason=error.reason)
        return {"dropped": 1}
    return run_message(message)
