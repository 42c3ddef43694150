"""What is counted, how the counts of processes come together, and how they are told."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from io import StringIO
from typing import Any

import pytest
from django.core.cache import caches
from django.core.management import CommandError, call_command

from async_cache import AsyncCacheJob, tallies, threads, worker
from async_cache.exceptions import StoreUnavailable
from async_cache.monitor import JobStatistics, asnapshot, counting, sharing, snapshot
from async_cache.monitor.sharing import Sharer, Slot, read_slots
from async_cache.monitor.statistics import MAX_REASONS, SUMS, Counts
from async_cache.stores.registry import reset_stores
from async_cache.testing import freeze
from tests.dispatchers.support import eventually
from tests.jobs.support import Shelf
from tests.monitor import tasks
from tests.workers import WorkerProcess


class Halves(AsyncCacheJob[float]):
    ttl = 60
    grace = 600

    def fetch(self, n: int) -> float:
        return 1 / n


NAME = f"{__name__}.Halves"


@pytest.fixture(autouse=True)
def _anew(monkeypatch: pytest.MonkeyPatch, settings: Any, redis_caches: Any) -> Iterator[None]:
    settings.ASYNC_CACHE = {"CACHE": "redis", "DISPATCHER": "immediate"}
    caches["redis"].clear()
    reset_stores()
    counting._start_anew()
    monkeypatch.setattr(sharing, "_sharer", Sharer())
    yield
    reset_stores()


def told() -> JobStatistics:
    return snapshot()[NAME]


def test_reads_and_refreshes_of_a_job() -> None:
    job = Halves()
    with freeze() as clock:
        job.get(2)
        clock.advance(30)
        job.get(2)
        clock.advance(60)
        job.get(2)
        with pytest.raises(ZeroDivisionError):
            job.get(0)
        statistics = told()
        assert statistics.last_success == statistics.last_failure == clock.now()
    assert (statistics.fresh, statistics.stale, statistics.miss) == (1, 1, 2)
    assert statistics.reads == 4
    assert statistics.hit_ratio == 0.5
    assert statistics.mean_age == pytest.approx((30 + 90) / 2)
    assert (statistics.committed, statistics.failed) == (2, 1)
    assert statistics.dispatched == 1
    assert statistics.last_error == "ZeroDivisionError"
    assert statistics.mean_fetch == pytest.approx(statistics.longest_fetch, abs=1)


def test_the_way_of_a_message_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf()
    job = Halves()
    monkeypatch.setattr(type(job._runtime), "dispatcher", shelf)
    with freeze() as clock:
        job.get(2)
        clock.advance(90)
        job.get(2)
        clock.advance(3)
        shelf.run_all()
    statistics = told()
    assert statistics.mean_queued == pytest.approx(3)
    worker.run_sealed("forged")
    assert snapshot()[""].dropped == {"forged": 1}


def test_processes_add_up() -> None:
    job = Halves()
    job.get(2)
    before = told()
    assert before.miss == 1
    pid = os.fork()
    if pid == 0:  # the child: it counts what it does, and not what its parent did
        status = 1
        try:
            job.get(2)
            job.get(2)
            sharing.flush()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    after = told()
    assert (after.miss, after.fresh) == (1, 2)
    assert len(read_slots()) == 2


def test_who_loses_a_slot_moves_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    Halves().get(2)
    first, second = Sharer(), Sharer()
    monkeypatch.setattr("random.choice", min)
    first.flush()
    second._number = first._number
    second._last = (0.0, None)
    other = Slot("another", 1e12, 0.0, {NAME: Counts({"miss": 5})})
    store = sharing._store()
    store.put([(sharing._name(0), other.dump(), 60)])
    Halves().get(2)
    first.flush()
    assert first._number == 1
    slots = read_slots()
    assert slots[0].jobs[NAME].sums["miss"] == 5
    assert slots[1].jobs[NAME].sums["fresh"] == 1


def test_what_another_has_taken_over_is_not_told_twice() -> None:
    with freeze() as clock:
        Halves().get(2)
        slept, other = Sharer(), Sharer()
        slept.flush()
        clock.advance(1)
        Halves().get(2)
        slept.flush()  # sees its name in its slot
        # The process is stopped for a while, and another takes it for ended.
        clock.advance(sharing.SILENT_SECONDS + 1)
        other._last = (0.0, None)
        slots = read_slots()
        [number] = slots
        other._take_slot(clock.now(), 1.0)
        taken = Slot(other._name, clock.now(), 0.0, slots[number].jobs, other._continues)
        sharing._store().put([(sharing._name(number), taken.dump(), 10_000)])
        Halves().get(2)
        slept.flush()
        sums = [slot.jobs[NAME].sums for slot in read_slots().values()]
        totals = {
            name: sum(one.get(name, 0) for one in sums) for name in ("fresh", "stale", "miss")
        }
        assert len(sums) == 2
        assert totals == {"fresh": 1, "stale": 1, "miss": 1}


def test_the_counts_of_an_ended_process_are_continued_once() -> None:
    with freeze() as clock:
        ended = Slot("ended", clock.now(), clock.now(), {NAME: Counts({"fresh": 7})})
        sharing._store().put([(sharing._name(3), ended.dump(), 10_000)])
        clock.advance(sharing.SILENT_SECONDS + 1)
        Halves().get(2)
        one = Sharer()
        one.flush()
        assert list(read_slots()) == [3]
        assert read_slots()[3].jobs[NAME].sums["fresh"] == 7
        # Another has taken the same slot at the same time, with the same inheritance.
        winner = Slot("winner", clock.now(), 0.0, {NAME: Counts({"fresh": 7})})
        sharing._store().put([(sharing._name(3), winner.dump(), 10_000)])
        Halves().get(2)
        one.flush()
        total = sum(slot.jobs[NAME].sums.get("fresh", 0) for slot in read_slots().values())
    assert total == 8


def test_garbage_in_a_slot_is_no_slot() -> None:
    store = sharing._store()
    for raw in (b"", b"x", b"[]", b"{}", b'{"jobs": {"a": 1}}', b"[" * 100_000, b"\xff"):
        store.put([(sharing._name(1), raw, 60)])
        assert read_slots() == {}
    with pytest.raises(ValueError, match="number"):
        Counts.from_plain({**Counts().to_plain(), "sums": {"fresh": True}})


@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "NaN", "1" + "0" * 400])
@pytest.mark.parametrize("where", ["sums", "longest_fetch", "written"])
def test_a_slot_with_a_number_that_is_none_is_no_slot(number: str, where: str) -> None:
    counts = {**Counts().to_plain(), "sums": {"fresh": 1}}
    plain = {"owner": "o", "written": 1.0, "since": 1.0, "jobs": {NAME: counts}, "continues": ""}
    if where == "sums":
        counts["sums"] = {"fresh": "?"}
    else:
        (counts if where in counts else plain)[where] = "?"
    sharing._store().put(
        [(sharing._name(1), json.dumps(plain).replace('"?"', number).encode(), 60)]
    )
    assert read_slots() == {}
    snapshot()


def test_without_a_free_slot_one_warning(settings: Any, caplog: pytest.LogCaptureFixture) -> None:
    settings.ASYNC_CACHE = {**settings.ASYNC_CACHE, "MONITOR": {"PROCESSES": 1}}
    other = Slot("another", 1e12, 0.0)
    sharing._store().put([(sharing._name(0), other.dump(), 60)])
    Halves().get(2)
    sharing.flush()
    sharing.flush()
    assert caplog.text.count("PROCESSES") == 1
    assert read_slots()[0].owner == "another"


def test_a_cache_that_does_not_answer_costs_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    Halves().get(2)

    def fails() -> Any:
        raise StoreUnavailable("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(sharing, "_store", fails)
        sharing._try_flush()
        with pytest.raises(StoreUnavailable):
            snapshot()
    assert told().miss == 1


def test_reasons_are_bounded() -> None:
    counts = Counts()
    for n in range(1_000):
        counts.add_reason("dropped", f"r{n}")
    assert len(counts.sums) <= len(SUMS) + MAX_REASONS
    assert counts.sums["dropped"] == 1_000


def test_the_first_job_starts_the_sharing(settings: Any) -> None:
    settings.ASYNC_CACHE = {**settings.ASYNC_CACHE, "MONITOR": {"FLUSH": 0.05}}
    pid = os.fork()
    if pid == 0:  # a process of its own: the thread ends with it
        status = 1
        try:
            os.setsid()
            tallies.watch(sharing.start)
            Halves().get(3)
            assert sharing._thread is not None
            grandchild = os.fork()
            if grandchild == 0:
                # Only the thread that was started anew after the fork can have written this.
                Halves().get(3)
                sharing._thread.join(20)
                os._exit(0)
            os.waitpid(grandchild, os.WNOHANG)
            sharing._thread.join(20)
            status = 0
        finally:
            os._exit(status)
    try:
        end = time.monotonic() + 15
        while time.monotonic() < end:
            slots = read_slots().values()
            if sum(slot.jobs[NAME].sums.get("fresh", 0) for slot in slots) == 1:
                break
            threading.Event().wait(0.02)
        else:
            pytest.fail("the child of a child did not share its counts")
    finally:
        os.killpg(pid, 9)
        os.waitpid(pid, 0)


def test_jobs_made_ready_at_once_start_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "_thread", None)
    started: list[str] = []

    def start(name: str, target: Callable[[], None]) -> threading.Thread:
        started.append(name)
        threading.Event().wait(0.1)  # as long as a thread takes to begin on a loaded machine
        return threading.current_thread()

    monkeypatch.setattr(threads, "start", start)
    makers = [threading.Thread(target=sharing.start) for _ in range(4)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join(10)
    assert started == ["statistics"]


@pytest.mark.integration
@pytest.mark.django_db(transaction=True)
def test_the_processes_of_a_worker_share_their_last_counts(
    settings: Any, celery_worker_process: Callable[..., WorkerProcess]
) -> None:
    settings.ASYNC_CACHE = {
        "CACHE": "redis",
        "JOB_MODULES": ["tests.monitor.tasks"],
        "MONITOR": {"FLUSH": 3_600},
    }
    process = celery_worker_process()
    job = tasks.Doubles()
    job.refresh_later(21)
    eventually(lambda: job.peek(21) == 42, 60)
    name = tasks.Doubles.__module__ + ".Doubles"
    assert snapshot()[name].committed == 0
    process.stop()
    assert snapshot()[name].committed == 1


def test_sharing_goes_on_after_an_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, settings: Any
) -> None:
    settings.ASYNC_CACHE = {"CACHE": "redis", "MONITOR": {"FLUSH": 0.01}}
    came: list[int] = []

    def flush() -> None:
        came.append(1)
        raise RuntimeError("secret") if len(came) < 3 else SystemExit

    monkeypatch.setattr(sharing, "flush", flush)
    with pytest.raises(SystemExit):
        sharing._run()
    assert caplog.text.count("The statistics were not shared: ") == 2
    assert "secret" not in caplog.text


def test_the_twin_for_event_loops() -> None:
    Halves().get(2)
    assert asyncio.run(asnapshot())[NAME].miss == 1


def command(*args: Any, **options: Any) -> str:
    out = StringIO()
    call_command("async_cache", "stats", *args, stdout=out, **options)
    return out.getvalue()


def test_the_command_tells() -> None:
    assert "Nothing was counted yet" in command()
    job = Halves()
    job.get(2)
    job.get(2)
    text = command()
    assert NAME in text
    assert "1 fresh, 0 stale, 1 miss, 0 error (50.0% from the cache)" in text
    [one] = json.loads(command("--format", "json"))
    assert (one["job"], one["reads"], one["hit_ratio"]) == (NAME, 2, 0.5)
    with pytest.raises(CommandError, match=r"Nothing was counted of shop\.Job"):
        command("shop.Job")
    with pytest.raises(CommandError, match="above zero"):
        command("--watch", "0")


def test_the_command_watches_until_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    Halves().get(2)
    times: list[int] = []

    def snapshot_for_a_while() -> Any:
        times.append(1)
        if len(times) == 2:
            raise StoreUnavailable("away")
        if len(times) == 4:
            raise KeyboardInterrupt
        return snapshot()

    monkeypatch.setattr("async_cache.monitor.management.stats.snapshot", snapshot_for_a_while)
    err = StringIO()
    lines = command("--watch", "0.01", "--format", "json", stderr=err).splitlines()
    assert [json.loads(line)[0]["job"] for line in lines] == [NAME, NAME]
    assert "StoreUnavailable: away" in err.getvalue()
