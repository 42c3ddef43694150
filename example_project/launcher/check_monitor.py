"""The part of the check that is about the monitor: what the camera and the counters have seen."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .backing import Backing
from .browser import expect

if TYPE_CHECKING:
    from .check import Check

ADMIN = "/admin/async_cache_monitor"


def check_monitor(check: Check) -> None:
    """See the statistics, and the rows of worker and tasks; the group's check has logged in."""
    page = check.browser.get("/statistics/").decode()
    expect("airports.jobs.AirportWeather" in page, "the statistics do not name the weather")
    if check.stage.backing is Backing.FILES:
        return  # no camera: files hand no event to two readers
    started = time.monotonic()
    tasks = f"{ADMIN}/taskstate/?state=SUCCESS&q=async_cache.refresh"
    check.wait(
        "the camera to show refreshes",
        20,
        lambda: "/change/" in check.browser.get(tasks).decode(),
        pause=0.5,
    )
    workers = check.browser.get(f"{ADMIN}/workerstate/").decode()
    expect('alt="True"' in workers, "the admin shows no worker that is alive")
    check.step("the camera", "", time.monotonic() - started, "worker and tasks in the admin")
