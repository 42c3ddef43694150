"""Tell workers what to do with tasks, in bounded time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from celery import states

from async_cache.control import NotSent, connected, control

__all__ = ["KNOWN_STATES", "READY_STATES", "NotSent", "is_rate", "limit_rate", "revoke"]

READY_STATES: Final = frozenset(states.READY_STATES)
KNOWN_STATES: Final = (
    *(states.PENDING, states.RECEIVED, states.STARTED, states.SUCCESS),
    *(states.FAILURE, states.RETRY, states.REVOKED, states.REJECTED),
)

_RATE: Final = re.compile(r"\d{1,9}(\.\d{1,9})?(/[smh])?", re.ASCII)


def is_rate(text: str) -> bool:
    """Tell whether a text is a rate of Celery: ``10/m``, ``5/s``, ``100/h``; ``0`` is no limit."""
    return _RATE.fullmatch(text) is not None


def revoke(task_ids: Sequence[str], *, terminate: bool = False) -> None:
    """Have workers not begin tasks.

    Args:
        task_ids: Which.
        terminate: End the processes too that run them.

    Raises:
        NotSent: The broker does not answer.
    """
    with connected() as connection:
        control().revoke(list(task_ids), terminate=terminate, connection=connection)


def limit_rate(names: Sequence[str], rate: str) -> None:
    """Have each worker begin so many tasks of a name in a time at most.

    Args:
        names: Of the tasks.
        rate: See `is_rate`.

    Raises:
        NotSent: The broker does not answer.
    """
    with connected() as connection:
        told = control()
        for name in names:
            told.rate_limit(name, rate, connection=connection)
