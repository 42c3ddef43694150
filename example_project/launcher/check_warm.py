"""The part of the check that is about schedules: what Celery beat keeps warm is never stale."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from .browser import expect

if TYPE_CHECKING:
    from .check import Check

PAUSE = 0.5  # seconds between two looks
REFRESHES = 2  # new values of each airport that are waited for


class Warm:
    """Looks at the values that are kept warm, while the check waits for other things."""

    def __init__(self, check: Check) -> None:
        self._check = check
        self._due = 0.0
        self._oldest = 0.0
        self._readings: dict[str, set[int]] = {}
        self.hubs: set[str] = set()
        self.watching = True

    def look(self) -> None:
        """See that every value that has once come is fresh; at most once in a while."""
        if not self.watching or time.monotonic() < self._due:
            return
        found = self._check.browser.json("/warm.json")
        self.hubs = {row["code"] for row in found["rows"]}
        for row in found["rows"]:
            self._note(row, found["ttl"])
        self._due = time.monotonic() + PAUSE

    def _note(self, row: dict[str, Any], ttl: float) -> None:
        code, value, age = row["code"], row["value"], row["age"]
        if value is None and code not in self._readings:
            return  # beat has not ticked yet
        expect(row["state"] == "fresh", f"{code} is {row['state']}, and was to be kept warm")
        expect(age <= ttl, f"{code} is {age:.1f} s old, and its ttl {ttl:g} s")
        self._oldest = max(self._oldest, age)
        self._readings.setdefault(code, set()).add(value["reading"])

    def finish(self) -> None:
        """See that the worker has brought new values of all; then look no more."""
        self._check.wait("the clock to refresh", 30, self._all_came)
        self.watching = False
        web = self._check.supervisor.pid_of("web server")
        rows = self._check.browser.json("/warm.json")["rows"]
        by = {row["value"]["fetched_by"] for row in rows}
        expect(web not in by, "the web server fetched what beat and worker keep warm")
        note = f"{len(rows)} values, {self._least()} readings each; nobody asked"
        self._check.step("oldest value kept warm", "fresh", self._oldest, note)

    def _all_came(self) -> bool:
        return bool(self.hubs) and self._least() > REFRESHES

    def _least(self) -> int:
        return min((len(self._readings.get(code, ())) for code in self.hubs), default=0)
