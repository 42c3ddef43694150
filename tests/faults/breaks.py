"""Deliberate breaks: one decision taken out of the code, for a check to catch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest

from tests.faults.scale import few

__all__ = ["Break", "caught"]


@dataclass(frozen=True)
class Break:
    """A decision that is taken out.

    Attributes:
        what: The promise that is broken without it.
        target: Dotted path of what is replaced.
        instead: What stands there then.
    """

    what: str
    target: str
    instead: Any

    def __str__(self) -> str:
        return self.what.replace(" ", "_")


def caught(broken: Break, check: Callable[[], object]) -> str:
    """Run a check on broken code; return what it says, fail when it notices nothing."""
    with mock.patch(broken.target, broken.instead), few():
        try:
            check()
        except (AssertionError, pytest.fail.Exception) as error:
            return str(error)
    pytest.fail(f"the check does not notice: {broken.what}")
