"""The state of a read, as the pages show it.

`job.explain(...)` looks at the cache and changes nothing: it never fetches and never refreshes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from async_cache import Explanation

from .reads import Answer, Read


def state_of(read: Read) -> Explanation:
    """Return the explanation of a read."""
    explanation: Explanation = read.job.explain(**read.call)
    return explanation


def as_json(read: Read, state: Explanation, answers: Sequence[Answer]) -> dict[str, Any]:
    """Return the state of a read for the script of the pages."""
    return {
        "address": read.address,
        "title": read.title,
        "job": state.job,
        "state": state.status.name.lower(),
        "reason": state.reason,
        "age": state.age,
        "refresh": state.refresh or "",
        "error": error_of(state),
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


def error_of(state: Explanation) -> str:
    """Describe the failed fetches since the last good one; empty when there are none."""
    if not state.failures:
        return ""
    times = "" if state.failures == 1 else f", {state.failures} times in a row"
    wait = math.ceil(state.retry_after)
    again = f"; not asked again for {wait} s" if wait else ""
    return f"{state.last_error}{times}{again}"
