"""The state of a read, as the pages show it.

`job.explain(...)` looks at the cache and changes nothing: it never fetches and never refreshes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .reads import Answer, Read


def state_of(read: Read) -> Any:
    """Return the explanation of a read."""
    return read.job.explain(**read.call)


def as_json(read: Read, state: Any, answers: Sequence[Answer]) -> dict[str, Any]:
    """Return the state of a read for the script of the pages."""
    return {
        "address": read.address,
        "title": read.title,
        "job": state.job,
        "state": state.status.name.lower(),
        "reason": state.reason,
        "age": state.age,
        "error": str(state.error or ""),
        "reads": [
            {
                "state": answer.state,
                "milliseconds": answer.milliseconds,
                "error": answer.error,
                "at": answer.at,
            }
            for answer in answers
        ],
    }
