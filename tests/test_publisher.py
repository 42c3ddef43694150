"""Publishing: nothing waits, nothing is lost, nothing is published twice."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar
from uuid import UUID, uuid4

import pytest
from django.core.cache import caches
from django.db import connections, transaction

from async_cache import clock, guards, publisher, signals, threads
from async_cache.dispatchers.base import Refresh
from async_cache.exceptions import DispatchFailed, StoreUnavailable
from async_cache.leases import Phase
from async_cache.stores.base import Claim, Claimed
from async_cache.stores.django import DjangoStore
from async_cache.stores.registry import get_store
from tests.dispatchers.support import SECONDS, Recorder, Runtime, eventually, heard
from tests.lateness import Lateness


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    guards.forget()
    yield
    publisher.drain(1.0)
    publisher._reset()
    guards.forget()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def runtime(recorder: Recorder) -> Runtime:
    return Runtime(recorder)


class Unsteady(DjangoStore):
    """A store whose cache can be switched off, before or after a claim takes effect."""

    def __init__(self) -> None:
        super().__init__("default", 1000.0)
        self.down = False
        self.deaf = False
        self.asked = threading.Event()

    def claim(self, claims: Sequence[Claim]) -> list[Claimed]:
        self.asked.set()
        if self.down:
            raise StoreUnavailable("The test says so.")
        answer = super().claim(claims)
        if self.deaf:
            raise StoreUnavailable("The answer is lost.")
        return answer


# --- the queue --------------------------------------------------------------------------------


def test_a_refresh_is_published_with_its_lease_as_the_task(
    runtime: Runtime, recorder: Recorder
) -> None:
    with heard(signals.refresh_dispatched) as events:
        assert publisher.submit(runtime.request("a"))
        recorder.wait_for(lambda r: r.taken)
        eventually(lambda: events)
    (refresh,) = recorder.taken
    lease = runtime.lease("a")
    assert lease is not None
    assert lease.phase is Phase.QUEUED
    assert refresh.task_id == str(UUID(bytes=lease.token)) == events[0]["task_id"]
    (item,) = refresh.message.items
    assert (item.digest, item.token, item.entry_id) == ("a", lease.token, b"\1" * 8)
    assert refresh.expires > 60 * runtime.queued_grace
    assert "a" in refresh.summary


def test_the_reader_waits_for_neither_store_nor_dispatcher(
    runtime: Runtime, recorder: Recorder
) -> None:
    gate = threading.Event()
    recorder.on_dispatch = lambda _: gate.wait(SECONDS)
    publisher.submit(runtime.request("first"))
    recorder.wait_for(lambda r: r.tries)
    took = []
    for number in range(100):
        request = runtime.request(f"key{number}")
        start = time.perf_counter()
        assert publisher.submit(request)
        took.append(time.perf_counter() - start)
    gate.set()
    recorder.wait_for(lambda r: len(r.taken) == 101)
    assert sorted(took)[50] < 0.05, "the dispatcher holds its thread for much longer"


def test_what_is_published_elsewhere_is_not_published_again(
    runtime: Runtime, recorder: Recorder
) -> None:
    runtime.store.claim([Claim("lease:a", b"other" * 3, Phase.QUEUED, 10, "trace:a", 100)])
    with heard(signals.refresh_coalesced) as events:
        publisher.submit(runtime.request("a"))
        eventually(lambda: events)
    assert recorder.taken == []
    assert events[0]["key"] == "a"


def test_a_lost_claim_leaves_a_guard_of_a_second(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(clock, "monotonic", lambda: now)
    runtime.store.claim([Claim("lease:a", b"other" * 3, Phase.FETCHING, 10, "trace:a", 100)])
    with heard(signals.refresh_coalesced) as events:
        publisher.submit(runtime.request("a"))
        eventually(lambda: events)
    assert publisher.guarded("entry:a", b"\1" * 8, b"stamps")
    now += 1.01
    assert not publisher.guarded("entry:a", b"\1" * 8, b"stamps")


def test_the_queue_is_bounded_and_the_newest_is_dropped(
    runtime: Runtime, recorder: Recorder, settings: Any
) -> None:
    settings.ASYNC_CACHE = {"QUEUE_SIZE": 3}
    gate = threading.Event()
    recorder.on_dispatch = lambda _: gate.wait(SECONDS)
    publisher.submit(runtime.request("first"))
    recorder.wait_for(lambda r: r.tries)
    with heard(signals.dispatch_failed) as events:
        assert [publisher.submit(runtime.request(key)) for key in "abc"] == [True, True, False]
        assert publisher.guarded("entry:b", b"\1" * 8, b"stamps")
        assert not publisher.guarded("entry:c", b"\1" * 8, b"stamps")
        assert publisher.submit(runtime.request("a")), "what waits already takes no room"
        gate.set()
        eventually(lambda: events)
    assert (events[0]["dispatcher"], events[0]["job"], events[0]["count"]) == (
        "recorder",
        "tests.Job",
        1,
    )
    recorder.wait_for(lambda r: len(r.taken) == 3)
    assert recorder.digests == [["first"], ["a"], ["b"]]


# --- messages ---------------------------------------------------------------------------------


def test_calls_of_a_job_that_fetches_many_share_messages(recorder: Recorder) -> None:
    runtime = Runtime(recorder, coalesces=True)
    keys = [f"key{number}" for number in range(150)]
    assert publisher.submit_many([runtime.request(key) for key in keys]) == 150
    recorder.wait_for(lambda r: len(r.taken) == 2)
    assert [len(keys) for keys in recorder.digests] == [100, 50]
    assert [key for keys in recorder.digests for key in keys] == keys
    for refresh in recorder.taken:
        assert {item.token for item in refresh.message.items} == {UUID(refresh.task_id).bytes}
        assert refresh.keys == len(refresh.message.items)


def test_calls_under_different_contexts_travel_apart(recorder: Recorder) -> None:
    runtime = Runtime(recorder, coalesces=True)
    requests = [runtime.request(key, language=key[0]) for key in ("de1", "en1", "de2")]
    publisher.submit_many(requests)
    recorder.wait_for(lambda r: len(r.taken) == 2)
    assert sorted(recorder.digests) == [["de1", "de2"], ["en1"]]
    assert {refresh.message.context for refresh in recorder.taken} == {
        (("language", "d"),),
        (("language", "e"),),
    }


def test_other_jobs_send_one_message_a_call(runtime: Runtime, recorder: Recorder) -> None:
    publisher.submit_many([runtime.request(key) for key in "abc"])
    recorder.wait_for(lambda r: len(r.taken) == 3)
    assert recorder.digests == [["a"], ["b"], ["c"]]
    assert len({refresh.task_id for refresh in recorder.taken}) == 3


def test_a_call_that_cannot_travel_does_not_hold_up_the_others(recorder: Recorder) -> None:
    runtime = Runtime(recorder, coalesces=True)
    recorder.refuses = {"b"}
    with heard(signals.dispatch_failed) as events:
        publisher.submit_many([runtime.request(key) for key in "abc"])
        recorder.wait_for(lambda r: len(r.taken) == 2)
        eventually(lambda: events)
        eventually(lambda: runtime.lease("b") is None)
    assert recorder.digests == [["a"], ["c"]]
    assert [event["error_type"] for event in events] == ["ValueError"]
    assert runtime.lease("a") is not None


# --- outages ----------------------------------------------------------------------------------


def test_a_failed_publish_gives_its_leases_back_and_is_tried_again(
    runtime: Runtime, recorder: Recorder
) -> None:
    recorder.failing = True
    with heard(signals.dispatch_failed, signals.dispatch_recovered) as events:
        publisher.submit_many([runtime.request(key) for key in "abc"])
        recorder.wait_for(lambda r: r.tries == 1)
        eventually(lambda: len(events) == 3)
        eventually(lambda: all(runtime.lease(key) is None for key in "abc"))
        assert publisher.guarded("entry:a", b"\1" * 8, b"stamps")
        recorder.wait_for(lambda r: r.tries == 2)
        eventually(lambda: len(events) > 3)
        assert [event["count"] for event in events[3:]] == [1], "one probe, not all that waits"
        recorder.failing = False
        start = time.monotonic()
        with Lateness() as late:
            recorder.wait_for(lambda r: len(r.taken) == 3)
        assert time.monotonic() - start < 2.0 + late.seconds
        eventually(lambda: events[-1].get("seconds"))
    assert recorder.digests == [["a"], ["b"], ["c"]], "in the order of asking"
    assert recorder.tries == 5


def test_a_new_try_is_another_task(runtime: Runtime, recorder: Recorder) -> None:
    tokens = []
    recorder.on_dispatch = lambda refresh: tokens.append(refresh.task_id)
    recorder.failing = True
    publisher.submit(runtime.request("a"))
    recorder.wait_for(lambda r: r.tries == 1)
    recorder.failing = False
    recorder.wait_for(lambda r: r.taken)
    # The first may have been delivered all the same: its worker must not share the lease.
    assert len(set(tokens)) == 2


def test_one_dispatcher_that_fails_does_not_hold_up_another(
    runtime: Runtime, recorder: Recorder
) -> None:
    recorder.failing = True
    publisher.submit(runtime.request("a"))
    recorder.wait_for(lambda r: r.tries)
    other = Recorder()
    other.name = "other"
    start = time.monotonic()
    with Lateness() as late:
        publisher.submit(Runtime(other).request("b"))
        other.wait_for(lambda r: r.taken)
    assert time.monotonic() - start < 0.5 + late.seconds, "before the other is tried again"


def test_while_nobody_answers_a_key_waits_once(runtime: Runtime, recorder: Recorder) -> None:
    recorder.failing = True
    publisher.submit(runtime.request("a"))
    recorder.wait_for(lambda r: r.tries)
    eventually(lambda: len(publisher._outbox) == 1)
    for _ in range(50):
        assert publisher.submit(runtime.request("a"))
    assert len(publisher._outbox) <= 1


def test_a_store_that_does_not_answer_is_tried_again(recorder: Recorder) -> None:
    store = Unsteady()
    store.down = True
    runtime = Runtime(recorder, store=store)
    publisher.submit(runtime.request("a"))
    assert store.asked.wait(SECONDS)
    assert recorder.taken == []
    store.down = False
    recorder.wait_for(lambda r: r.taken, runtime.queued_grace * 0.8)


def test_a_claim_whose_answer_was_lost_does_not_lock_itself_out(recorder: Recorder) -> None:
    store = Unsteady()
    store.deaf = True
    runtime = Runtime(recorder, store=store)
    publisher.submit(runtime.request("a"))
    assert store.asked.wait(SECONDS)
    eventually(lambda: runtime.lease("a"))
    store.deaf = False
    recorder.wait_for(lambda r: r.taken, runtime.queued_grace * 0.8)


def test_an_unanswered_dispatch_is_announced_and_guarded_for_longer(
    runtime: Runtime, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        claim = Claim("lease:a", uuid4().bytes, Phase.QUEUED, 0.02, "trace:a", 100)
        assert runtime.store.claim([claim])[0].won
        eventually(lambda: runtime.lease("a") is None)
    runtime.policy = runtime.policy._replace(lease=100.0)  # the guard never outlasts a lease
    now = time.monotonic()
    monkeypatch.setattr(clock, "monotonic", lambda: now)
    with heard(signals.refresh_unanswered) as events:
        publisher.submit(runtime.request("a"))
        recorder.wait_for(lambda r: r.taken)
    assert events[0]["attempts"] == 2
    now += 39.9
    assert publisher.guarded("entry:a", b"\1" * 8, b"stamps")
    now += 0.2
    assert not publisher.guarded("entry:a", b"\1" * 8, b"stamps")


# --- the guard --------------------------------------------------------------------------------


def test_the_guard_holds_for_one_state_of_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(clock, "monotonic", lambda: now)
    guards.guard("entry", b"id", b"stamps", 10)
    assert publisher.guarded("entry", b"id", b"stamps")
    assert not publisher.guarded("entry", b"id", b"others")
    assert not publisher.guarded("entry", b"another", b"stamps")
    assert not publisher.guarded("other", b"id", b"stamps")
    now = 110.0
    assert not publisher.guarded("entry", b"id", b"stamps")


def test_guards_are_capped_and_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(clock, "monotonic", lambda: now)
    for number in range(guards.MAX_GUARDS + 1):
        guards.guard(str(number), b"id", b"stamps", 10 if number % 2 else 1000)
    assert len(guards._guards) <= guards.MAX_GUARDS
    assert not publisher.guarded("0", b"id", b"stamps")
    newest = str(guards.MAX_GUARDS)
    assert publisher.guarded(newest, b"id", b"stamps")
    while len(guards._guards) < guards.MAX_GUARDS:
        number += 1
        guards.guard(str(number), b"id", b"stamps", 1000)
    now = 20.0  # the odd ones have ended: they go before any that still holds
    guards.guard("one more", b"id", b"stamps", 10)
    assert publisher.guarded(newest, b"id", b"stamps")
    assert not any(held[2] <= now for held in guards._guards.values())


# --- in the reader's own thread ---------------------------------------------------------------


def test_an_inline_dispatcher_runs_before_submit_returns() -> None:
    recorder = Recorder(inline=True)
    here = []
    recorder.on_dispatch = lambda _: here.append(threading.current_thread())
    assert publisher.submit(Runtime(recorder).request("a"))
    assert recorder.digests == [["a"]]
    assert here == [threading.current_thread()]


def test_a_chain_of_inline_refreshes_does_not_grow_the_stack() -> None:
    recorder = Recorder(inline=True)
    runtime = Runtime(recorder)
    length = 3 * sys.getrecursionlimit()

    def read_the_next(refresh: Refresh) -> None:
        number = int(refresh.message.items[0].digest) + 1
        if number < length:
            publisher.submit(runtime.request(str(number)))

    recorder.on_dispatch = read_the_next
    publisher.submit(runtime.request("0"))
    assert len(recorder.taken) == length


def test_an_inline_failure_reaches_no_reader_and_leaves_no_guard() -> None:
    recorder = Recorder(inline=True)
    recorder.failing = True
    runtime = Runtime(recorder)
    with heard(signals.dispatch_failed) as events:
        publisher.submit(runtime.request("a"))
    assert len(events) == 1
    assert runtime.lease("a") is None
    assert not publisher.guarded("entry:a", b"\1" * 8, b"stamps")
    recorder.failing = False
    publisher.submit(runtime.request("a"))
    assert recorder.digests == [["a"]]


def test_where_a_lease_would_be_part_of_the_transaction_the_commit_is_waited_for(
    database_cache: Any,
) -> None:
    recorder = Recorder(inline=True)
    runtime = Runtime(recorder, alias="database", store=get_store("database"))
    with transaction.atomic():
        publisher.submit(runtime.request("a"))
        assert recorder.taken == []
        assert runtime.lease("a") is None
    assert recorder.digests == [["a"]]
    with contextlib.suppress(ZeroDivisionError), transaction.atomic():
        publisher.submit(runtime.request("b"))
        raise ZeroDivisionError
    assert recorder.digests == [["a"]]


def test_a_dispatcher_that_cannot_be_used_fails_no_read(runtime: Runtime) -> None:
    class Broken(Recorder):
        @property
        def inline(self) -> bool:
            raise RuntimeError

    with heard(signals.dispatch_failed) as events:
        assert not publisher.submit(Runtime(Broken()).request("a"))
    assert events[0]["error_type"] == "RuntimeError"


def test_without_threads_the_caller_publishes(
    runtime: Runtime, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "supported", lambda: False)
    here = []
    recorder.on_dispatch = lambda _: here.append(threading.current_thread())
    assert publisher.submit(runtime.request("a"))
    assert recorder.digests == [["a"]]
    assert here == [threading.current_thread()]


def test_uwsgi_without_threads_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    class Uwsgi:
        opt: ClassVar[dict[str, object]] = {}

    monkeypatch.setitem(sys.modules, "uwsgi", Uwsgi)
    assert not threads.supported()
    Uwsgi.opt = {"enable-threads": True}
    assert threads.supported()


# --- publish_now ------------------------------------------------------------------------------


def test_publish_now_tells_who_holds_the_lease(runtime: Runtime, recorder: Recorder) -> None:
    mine, other = uuid4().bytes, uuid4().bytes
    assert publisher.publish_now(runtime.request("a"), mine) == (True, mine)
    assert recorder.taken[0].task_id == str(UUID(bytes=mine))
    assert publisher.publish_now(runtime.request("a"), other) == (False, mine)
    assert len(recorder.taken) == 1


def test_publish_now_of_a_coalescing_job_sends_a_message_of_its_own(recorder: Recorder) -> None:
    runtime = Runtime(recorder, coalesces=True)
    token = uuid4().bytes
    publisher.publish_now(runtime.request("a"), token)
    assert recorder.taken[0].task_id == str(UUID(bytes=token))


def test_publish_now_reports_failures_and_is_not_tried_again(
    runtime: Runtime, recorder: Recorder
) -> None:
    recorder.failing = True
    with pytest.raises(DispatchFailed):
        publisher.publish_now(runtime.request("a"), uuid4().bytes)
    assert runtime.lease("a") is None
    with pytest.raises(DispatchFailed, match=rf'dispatcher "{recorder.name}" has just failed.*see'):
        publisher.publish_now(runtime.request("a"), uuid4().bytes)
    assert recorder.tries == 1
    assert len(publisher._outbox) == 0


def test_publish_now_is_bounded(runtime: Runtime, recorder: Recorder, settings: Any) -> None:
    settings.ASYNC_CACHE = {"PUBLISH_TIMEOUT": 0.1}
    gate = threading.Event()
    recorder.on_dispatch = lambda _: gate.wait(SECONDS)
    start = time.monotonic()
    with pytest.raises(DispatchFailed, match=r"PUBLISH_TIMEOUT.*See that both run"):
        publisher.publish_now(runtime.request("a"), uuid4().bytes)
    assert 0.1 <= time.monotonic() - start < SECONDS / 2
    gate.set()


def test_publish_now_from_the_publishers_own_thread_does_not_wait_for_itself(
    runtime: Runtime, recorder: Recorder
) -> None:
    answers = []

    def publish_another(refresh: Refresh) -> None:
        if refresh.message.items[0].digest == "a":
            answers.append(publisher.publish_now(runtime.request("b"), uuid4().bytes)[0])

    recorder.on_dispatch = publish_another
    publisher.submit(runtime.request("a"))
    recorder.wait_for(lambda r: len(r.taken) == 2)
    assert answers == [True]


# --- processes --------------------------------------------------------------------------------


def test_a_forked_child_publishes_with_a_thread_of_its_own(
    runtime: Runtime, recorder: Recorder
) -> None:
    gate = threading.Event()
    recorder.on_dispatch = lambda _: gate.wait(SECONDS)
    publisher.submit(runtime.request("first"))
    recorder.wait_for(lambda r: r.tries)
    publisher.submit(runtime.request("parents"))
    with publisher._outbox._changed:  # forked in the worst moment: the lock is held
        pid = os.fork()
        if pid == 0:
            try:
                child = Recorder()
                publisher.submit(Runtime(child).request("childs"))
                child.wait_for(lambda r: r.taken)
                os._exit(0 if child.digests == [["childs"]] else 1)
            finally:
                os._exit(2)
    gate.set()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    recorder.wait_for(lambda r: len(r.taken) == 2)


EXIT = """
import os, sys, threading, time
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
import django
django.setup()
from async_cache import publisher
from tests.dispatchers.support import Recorder, Runtime
recorder = Recorder()
def slow(refresh):
    time.sleep(float(sys.argv[1]))
    print("published", flush=True)
recorder.on_dispatch = slow
runtime = Runtime(recorder)
publisher.submit_many([runtime.request("a"), runtime.request("b")])
recorder.wait_for(lambda r: r.tries)
start = time.monotonic()
import atexit
atexit._run_exitfuncs()
print("ended", time.monotonic() - start)
"""


@pytest.mark.parametrize(("pause", "published"), [("0.01", 2), ("10", 0)])
def test_the_end_of_the_process_waits_a_moment_for_what_is_queued(
    pause: str, published: int
) -> None:
    command = [sys.executable, "-c", EXIT, pause]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("published") == published
    assert float(done.stdout.split("ended")[1]) < 5


def test_the_publisher_keeps_no_database_connection_open(
    database_cache: Any, recorder: Recorder
) -> None:
    opened: list[Any] = []

    def look(refresh: Refresh) -> None:
        caches["database"].get("anything")
        opened.extend(connections.all(initialized_only=True))

    recorder.on_dispatch = look
    publisher.submit(Runtime(recorder).request("a"))
    recorder.wait_for(lambda r: r.taken)
    assert opened, "the cache was read through a connection of the publisher's thread"
    eventually(lambda: all(connection.connection is None for connection in opened))


def test_an_unknown_mistake_does_not_end_the_thread(
    runtime: Runtime, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    class Mistaken(Runtime):
        def claim(self, address: Any, token: bytes, phase: Phase) -> Claim:
            raise ZeroDivisionError("secret")

    publisher.submit(Mistaken(recorder).request("a"))
    eventually(lambda: "ZeroDivisionError" in caplog.text)
    assert "secret" not in caplog.text
    assert not publisher.guarded("entry:a", b"\1" * 8, b"stamps")
    publisher.submit(runtime.request("b"))
    recorder.wait_for(lambda r: r.taken)


def test_requests_are_values(runtime: Runtime) -> None:
    one = runtime.request("a")
    assert one == one._replace(stamps=one.stamps)
    with pytest.raises(AttributeError):
        one.stamps = b"other"  # type: ignore[misc]
