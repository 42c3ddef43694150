"""The two clocks, in one place so that the test kit can hold them still.

Callers write ``clock.now()``: the attribute is looked up at each call.
"""

from __future__ import annotations

import time
from collections.abc import Callable

now: Callable[[], float] = time.time
"""Wall clock, seconds since the epoch: what entries record."""

monotonic: Callable[[], float] = time.monotonic
"""Seconds that never jump: what waits, guards and leases of this process use."""
