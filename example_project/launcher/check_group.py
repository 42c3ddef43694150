"""The part of the check that is about results: a group of calls, and a Celery task."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from .browser import expect

if TYPE_CHECKING:
    from .check import Check

CALLS = 12  # of the group; every tenth fails


def check_group(check: Check) -> None:
    """Start a group, see the worker fill it, sum it up in a Celery task, delete it."""
    page = _fill(check)
    _run_task(check, page)
    _delete(check, page)


def _fill(check: Check) -> str:
    """A group of calls: the worker fills it, in call order; return the address of its page."""
    check.browser.get("/groups/")  # for the CSRF cookie
    page = check.browser.post("/groups/start/", size=CALLS)
    started = time.monotonic()
    address = f"{page.rstrip('/')}.json"
    seen = 0

    def filled() -> bool:
        nonlocal seen
        ended = check.browser.json(address)["ended"]
        expect(seen <= ended <= CALLS, f"the group went from {seen} to {ended} members")
        seen = ended
        return bool(ended == CALLS)

    check.wait("the group to fill", 40, filled)
    took = time.monotonic() - started
    now = check.browser.json(address)
    tiles = re.findall(r'data-tile="([^"]+)"', check.browser.get(page).decode())
    names = [member["name"] for member in now["members"]]
    expect(len(tiles) == CALLS and names == tiles, f"the members {names} are not {tiles}")
    failed = [n for n, member in enumerate(now["members"], 1) if not member["success"]]
    expect(failed == [10], f"the members {failed} failed, not the tenth alone")
    expect(now["failed"] == 1, f"{now['failed']} failures are counted, not one")
    workers = {member["worker"] for member in now["members"]}
    expect(all(workers), f"not the worker made the calls, but {workers}")
    values = [member["value"] for member in now["members"] if member["success"]]
    expect(now["longest"] == max(values), f"the longest is {now['longest']}")
    check.step("a group fills", "", took, f"{CALLS} calls, in call order, one failed")
    return page


def _run_task(check: Check, page: str) -> None:
    """A Celery task with persist=True: its result is a row, which the admin shows."""
    check.browser.post(f"{page}summary/")
    task_id = check.browser.query.partition("=")[2]
    started = time.monotonic()
    address = f"/results/task/status/{task_id}/"
    check.wait("the task", 20, lambda: check.browser.json(address)["task"]["status"] == "SUCCESS")
    took = time.monotonic() - started
    result = check.browser.json(address)["task"]["result"]
    expect(result["reports"] == CALLS - 1, f"the task summed up {result}")
    check.browser.get("/admin/login/")  # for the CSRF cookie
    changelist = "/admin/async_cache_results/taskresult/"
    form = {"username": "demo", "password": check.stage.password, "next": changelist}
    at = check.browser.post("/admin/login/", **form)
    expect(at == changelist, f"logging in to the admin led to {at}")
    rows = check.browser.get(f"{changelist}?q={task_id}").decode()
    expect(rows.count(task_id) > 1, "the admin does not show the task's row")
    check.step("a Celery task", "", took, "persist=True: a row, which the admin shows")


def _delete(check: Check, page: str) -> None:
    """Delete the group; its rows stay."""
    label = page.split("/")[2]
    check.browser.post(f"/groups/{label}/delete/")
    left = check.browser.json(f"{page.rstrip('/')}.json")
    expect(left["ended"] == 0 and not left["members"], f"the deleted group has {left}")
    rows = check.browser.get("/admin/async_cache_results/taskresult/").decode()
    expect("Australia" in rows, "the rows of the deleted group are gone")
    check.step("the group is deleted", "", None, "its rows stay")
