"""Jobs with schedules, apart so that a worker finds them; it reads which from the settings."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from django.conf import settings

from async_cache import AsyncCacheJob


class Beaten(AsyncCacheJob[float]):
    """Short-lived, and refreshed by the clock where a test asks for it."""

    ttl = 6
    grace = 600
    jitter = 0

    def fetch(self, base: str) -> float:
        return time.time()

    def refresh_calls(self) -> Iterator[Any]:
        yield ("EUR",)
        yield {"base": "USD"}


# Only in the processes of the tests that want it: elsewhere it would be in every schedule.
Beaten.refresh_every = getattr(settings, "BEATEN_EVERY", None)
