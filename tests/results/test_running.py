"""Making a call and keeping its outcome, in this process."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Any

import pytest

from async_cache import results
from async_cache.exceptions import StoreUnavailable
from async_cache.results import TaskTimeout, async_task, get, get_layer, result, running
from async_cache.results.messages import CallMessage, seal_call
from async_cache.results.models import TaskResult
from async_cache.results.records import (
    FAILURE,
    NO_RECORD,
    REVOKED,
    STARTED,
    SUCCESS,
    NoRecord,
    Record,
)
from async_cache.results.running import Site, keep_end, run_call
from async_cache.results.signals import hook_failed
from async_cache.results.tasks import purge
from async_cache.results.utils import now
from async_cache.secret_keys import get_ring
from tests.dispatchers.support import heard

pytestmark = pytest.mark.django_db(transaction=True)

HERE = __name__
SEEN: list[Any] = []


async def forever() -> None:
    await asyncio.sleep(600)


async def own_timeout() -> None:
    raise TimeoutError("mine")


def look(task_id: str) -> None:
    """Note what is stored of a call while it runs."""
    SEEN.append(get_layer(False).get(task_id))


def raise_secret(_task: Any) -> None:
    raise LookupError("a secret")


def count() -> int:
    SEEN.append(1)
    return len(SEEN)


async def note(task: Any) -> None:
    SEEN.append(task.result)


@pytest.fixture(autouse=True)
def _unseen() -> None:
    SEEN.clear()


def stored(task_id: str) -> Record:
    found: Record | NoRecord = get_layer(False).get(task_id)
    assert found is not NO_RECORD
    return found


def test_a_coroutine_is_stopped_after_its_timeout() -> None:
    late = async_task(forever, sync=True, timeout=timedelta(seconds=0.05))
    with pytest.raises(TaskTimeout, match=r"forever ran past its timeout of 0\.05 s"):
        get(late)
    assert isinstance(result(late), TimeoutError)
    own = result(async_task(own_timeout, sync=True, timeout=60))
    assert (type(own), str(own)) == (TimeoutError, "mine")


def test_a_failing_hook_is_logged_by_type_and_announced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with heard(hook_failed) as events, caplog.at_level(logging.ERROR, "async_cache.results"):
        task_id = async_task("math.floor", 2.5, sync=True, hook=raise_secret)
        missing = async_task("math.floor", 2.5, sync=True, hook="no.such.hook")
    assert [(e["task_id"], e["hook"], e["error_type"]) for e in events] == [
        (task_id, f"{HERE}.raise_secret", "LookupError"),
        (missing, "no.such.hook", "ImportError"),
    ]
    assert isinstance(events[0]["error"], LookupError)
    assert f"{HERE}.raise_secret" in caplog.text
    assert "a secret" not in caplog.text
    assert (stored(task_id).state, stored(missing).state) == (SUCCESS, SUCCESS)


def test_a_hook_may_be_a_coroutine_and_is_called_for_each_delivery() -> None:
    message = CallMessage("again", "math.floor", (2.5,), hook=f"{HERE}.note")
    for _ in range(2):
        run_call(message, Site())
    assert SEEN == [2, 2]


def test_a_start_is_written_only_when_asked_for() -> None:
    for tracks in (False, True):
        run_call(CallMessage("a", f"{HERE}.look", ("a",), created=1.0), Site("w", tracks))
        get_layer(False).forget("a")
    run_call(CallMessage("a", f"{HERE}.look", ("a",), save=False), Site("w", tracks=True))
    before, during, unsaved = SEEN
    assert (before, unsaved) == (NO_RECORD, NO_RECORD)
    assert (during.state, during.worker, during.created) == (STARTED, "w", 1.0)


def test_a_start_that_cannot_be_written_does_not_keep_the_call(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save = running._save

    def fail_at_first(record: Record, message: CallMessage) -> bool:
        if record.state == STARTED:
            raise StoreUnavailable("away")
        return save(record, message)

    monkeypatch.setattr(running, "_save", fail_at_first)
    run_call(CallMessage("a", "math.floor", (2.5,)), Site(tracks=True))
    assert result("a") == 2
    assert "start of a was not stored" in caplog.text


def test_a_short_outage_of_the_store_does_not_lose_an_outcome(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save, tries = running._save, []

    def fail_twice(record: Record, message: CallMessage) -> bool:
        tries.append(record.state)
        if len(tries) <= 2:
            raise StoreUnavailable("away")
        return save(record, message)

    monkeypatch.setattr(running, "_save", fail_twice)
    run_call(CallMessage("a", f"{HERE}.count"), Site(pauses=(0.0, 0.0)))
    assert (tries, SEEN, result("a")) == ([SUCCESS] * 3, [1], 1)
    tries.clear()
    with pytest.raises(StoreUnavailable):
        run_call(CallMessage("b", f"{HERE}.count"), Site(pauses=(0.0,)))


def test_the_end_of_a_lost_call_is_kept_once_and_never_over_its_own() -> None:
    sealed = seal_call(CallMessage("a", "this.c", group="g", created=1.0), get_ring())
    assert keep_end(sealed, FAILURE, TaskTimeout("killed"), Site("w"))
    record = stored("a")
    assert (record.state, record.group, record.worker) == (FAILURE, "g", "w")
    assert not keep_end(sealed, REVOKED, RuntimeError("later"), Site("w"))
    with pytest.raises(TaskTimeout, match="killed"):
        get("a")
    assert not keep_end("1.forged", FAILURE, RuntimeError(), Site())


def test_the_purge_task_deletes_what_is_too_old(settings: Any) -> None:
    settings.ASYNC_CACHE = {"RESULTS": {"RETENTION": {"SUCCESS": 60, "*": 1e9}}}
    for name in ("old", "new"):
        run_call(CallMessage(name, "math.floor", (2.5,)), Site())
    run_call(CallMessage("failed", "math.floor", ("x",)), Site())
    rows = TaskResult.objects.exclude(task_id="new")
    rows.update(date_done=now() - timedelta(seconds=120))
    assert purge.apply(kwargs={"seconds": 0}).get() == {"deleted": 0, "finished": False}
    assert purge.apply().get() == {"deleted": 1, "finished": True}
    assert sorted(TaskResult.objects.values_list("task_id", flat=True)) == ["failed", "new"]


def test_every_public_name_is_found_and_no_other() -> None:
    for name in results.__all__:
        assert getattr(results, name) is not None
    assert not hasattr(results, "ended_members")
