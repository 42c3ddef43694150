"""What the events of tasks and workers become in the database."""

from __future__ import annotations

import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.events.state import State
from django.db import DatabaseError, DataError, OperationalError, connections, router

from async_cache.monitor import Camera, camera
from async_cache.monitor.managers import TaskStateManager
from async_cache.monitor.models import TaskState, WorkerState
from async_cache.monitor.moments import from_timestamp, now
from async_cache.testing import freeze
from tests.conftest import MARIADB, mariadb_wanted
from tests.servers import Process
from tests.workers import ROOT, WorkerProcess

on_sqlite = pytest.mark.django_db(transaction=True)
on_postgres = pytest.mark.django_db(databases=["default", "postgres"], transaction=True)

on_mariadb = pytest.mark.django_db(databases=["default", MARIADB], transaction=True)


class OnPostgres:
    """Sends the monitor's rows to PostgreSQL."""

    def db_for_write(self, model: type[Any], **_: Any) -> str | None:
        return "postgres" if model._meta.app_label == "async_cache_monitor" else None

    db_for_read = db_for_write


class OnMariadb(OnPostgres):
    """Sends them to MariaDB."""

    def db_for_write(self, model: type[Any], **_: Any) -> str | None:
        return MARIADB if model._meta.app_label == "async_cache_monitor" else None

    db_for_read = db_for_write


ROWS = [pytest.param("sqlite", marks=on_sqlite), pytest.param("postgres", marks=on_postgres)]
if mariadb_wanted():
    ROWS.append(pytest.param(MARIADB, marks=on_mariadb))


@pytest.fixture(params=ROWS)
def _rows(request: pytest.FixtureRequest, settings: Any) -> None:
    if request.param != "sqlite":
        settings.DATABASE_ROUTERS = [f"{__name__}.On{request.param.capitalize()}"]


class Scene:
    """A cluster of which events are heard, and a camera that looks at it."""

    def __init__(self, **conf: Any) -> None:
        self.app = Celery("scene", set_as_current=False)
        self.app.conf.update(conf)
        self.state: Any = State()
        self.camera = Camera(self.state, app=self.app)
        self._clock = 0

    def event(self, kind: str, at: float, **fields: Any) -> None:
        self._clock += 1
        told = {"hostname": "one@host", "timestamp": at, "local_received": at}
        self.state.event({"type": kind, "clock": self._clock, **told, **fields})

    def task(self, at: float, *kinds: str, **fields: Any) -> str:
        task_id = fields.pop("uuid", None) or str(uuid.uuid4())
        for number, kind in enumerate(kinds):
            self.event(f"task-{kind}", at + number, uuid=task_id, **fields)
        return task_id

    def shoot(self) -> None:
        self.camera.capture()


SECRET = "hunter2"


@pytest.mark.usefixtures("_rows")
def test_a_task_from_its_first_event_to_its_last() -> None:
    scene = Scene()
    at = time.time()
    task_id = scene.task(
        at, "received", "started", name="shop.add", args=f"({SECRET!r},)", kwargs="{}", retries=1
    )
    scene.shoot()
    row = TaskState.objects.get(task_id=task_id)
    assert (row.state, row.name, row.retries) == ("STARTED", "shop.add", 1)
    assert row.worker is not None
    assert row.worker.hostname == "one@host"
    scene.task(at + 2, "succeeded", uuid=task_id, result=f"{SECRET!r}", runtime=0.25)
    scene.shoot()
    row = TaskState.objects.get(task_id=task_id)
    assert (row.state, row.runtime, row.tstamp) == ("SUCCESS", 0.25, from_timestamp(at + 2))
    # Nobody asked for arguments and values.
    assert SECRET not in repr(vars(row))
    assert TaskState.objects.count() == 1


@pytest.mark.usefixtures("_rows")
def test_arguments_where_they_are_asked_for() -> None:
    scene = Scene(result_extended=True)

    @scene.app.task(name="shop.pay", shared=False, redact=lambda args, kwargs: ((), {}))
    def pay() -> None: ...

    @scene.app.task(name="shop.add", shared=False)
    def add() -> None: ...

    # Whether a task that is not known here redacts its arguments, nobody can tell.
    for name in ("shop.add", "shop.pay", "foreign.task"):
        given = {"name": name, "args": "(1, 'x')", "kwargs": "{'a': 2}"}
        scene.task(time.time(), "received", "succeeded", result="3", **given)
    scene.shoot()
    told = {r.name: (r.args, r.kwargs, r.result) for r in TaskState.objects.all()}
    nothing = (None, None, None)
    assert told.pop("shop.add") == ("(1, 'x')", "{'a': 2}", "3")
    assert told == {"shop.pay": nothing, "foreign.task": nothing}


@pytest.mark.usefixtures("_rows")
def test_an_error_is_its_type() -> None:
    scene = Scene()
    scene.task(time.time(), "failed", exception=f"ValueError({SECRET!r})", traceback="Traceback…")
    scene.shoot()
    row = TaskState.objects.get()
    assert (row.state, row.result, row.traceback) == ("FAILURE", "ValueError", "Traceback…")


@on_sqlite
@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ("shop.errors.Refused('hunter2')", "shop.errors.Refused"),
        ("<HttpError 403 when requesting https://api/?key=hunter2 returned (none)>", "Exception"),
        ("hunter2", "Exception"),
        ("no key hunter2 (sorry)", "Exception"),
    ],
)
def test_an_error_that_shows_itself_in_its_own_way_tells_no_secret(told: str, kept: str) -> None:
    scene = Scene()
    scene.task(time.time(), "failed", exception=told)
    scene.shoot()
    assert TaskState.objects.get().result == kept


@pytest.mark.usefixtures("_rows")
def test_a_worker_is_written_once_a_minute() -> None:
    scene = Scene()
    with freeze() as clock:
        scene.event("worker-online", clock.now())
        scene.event("worker-heartbeat", clock.now())
        scene.shoot()
        first = WorkerState.objects.get()
        assert first.heartbeat_timestamp == pytest.approx(clock.now(), abs=1)
        clock.advance(30)
        scene.event("worker-heartbeat", clock.now())
        scene.shoot()
        assert WorkerState.objects.get().last_heartbeat == first.last_heartbeat
        clock.advance(31)
        scene.event("worker-heartbeat", clock.now())
        scene.shoot()
        second = WorkerState.objects.get()
        assert (second.heartbeat_timestamp or 0) > (first.heartbeat_timestamp or 0)
        assert second.is_alive()
        clock.advance(minutes=4)
        assert not second.is_alive()
        assert not WorkerState(hostname="never").is_alive()
        for kind in ("online", "offline"):
            scene.event(f"worker-{kind}", clock.now())
            scene.event(f"worker-{kind}", clock.now(), hostname="two@host")
        scene.shoot()
        told = [row.last_heartbeat for row in WorkerState.objects.all()]
        assert told == [now(), now()]


@pytest.mark.usefixtures("_rows")
def test_few_statements_for_many_tasks(django_assert_max_num_queries: Any) -> None:
    scene = Scene()
    scene.event("worker-online", time.time())
    for _ in range(2_000):
        scene.task(time.time(), "received", "started", "succeeded", name="shop.add")
    alias = router.db_for_write(TaskState)
    with django_assert_max_num_queries(40, connection=connections[alias]):
        scene.shoot()
    assert TaskState.objects.filter(state="SUCCESS").count() == 2_000
    with django_assert_max_num_queries(0, connection=connections[alias]):
        scene.shoot()


@on_sqlite
def test_a_database_that_goes_away_for_a_while(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene()
    write: Any = TaskStateManager.store
    gone: list[DatabaseError] = [OperationalError("gone")]

    def store(self: Any, rows: Any) -> None:
        if gone:
            raise gone[0]
        write(self, rows)

    monkeypatch.setattr(TaskStateManager, "store", store)
    with freeze() as clock:
        first = scene.task(clock.now(), "received", "succeeded")
        scene.shoot()
        second = scene.task(clock.now(), "received", "succeeded")
        scene.shoot()
        gone.clear()
        scene.shoot()
        assert not TaskState.objects.exists()  # it is not tried at every turn
        clock.advance(camera.TRY_SECONDS)
        scene.shoot()
    assert set(TaskState.objects.values_list("task_id", flat=True)) == {first, second}
    assert "waits for the database: OperationalError" in caplog.text


@on_sqlite
def test_what_waits_is_bounded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(camera, "MAX_ROWS", 10)
    scene = Scene()
    monkeypatch.setattr(scene.camera, "_retry_at", float("inf"))
    ids = [scene.task(time.time() + n, "received", "succeeded") for n in range(25)]
    scene.shoot()
    assert len(scene.camera._waiting) == 10
    assert "dropped" in caplog.text
    scene.camera.cancel()
    scene.camera._retry_at = 0
    scene.shoot()
    kept = set(TaskState.objects.values_list("task_id", flat=True))
    assert kept <= set(ids)
    assert len(kept) == 10


@pytest.mark.usefixtures("_rows")
def test_old_tasks_go_by_their_state(settings: Any) -> None:
    settings.ASYNC_CACHE = {"MONITOR": {"KEEP_SUCCEEDED": 60, "KEEP_PENDING": None}}
    scene = Scene()
    day = 86_400.0
    ages = {"SUCCESS": 61, "FAILURE": 2 * day, "REVOKED": 4 * day, "PENDING": 99 * day}
    TaskState.objects.store(
        [
            TaskState(task_id=name, state=name, tstamp=now() - timedelta(seconds=age))
            for name, age in ages.items()
        ]
    )
    assert TaskState.objects.expired(["FAILURE"], timedelta(days=1)).get().task_id == "FAILURE"
    scene.camera.on_cleanup()
    left = set(TaskState.objects.values_list("task_id", flat=True))
    assert left == {"FAILURE", "PENDING"}
    assert TaskState.objects.expire_by_states(["FAILURE"], day) == 1
    assert TaskState.objects.active().get().task_id == "PENDING"
    assert TaskState.objects.purge() == 1


@on_sqlite
def test_a_state_of_the_projects_own_goes_too(settings: Any) -> None:
    settings.ASYNC_CACHE = {"MONITOR": {"KEEP_PENDING": 60, "KEEP_SUCCEEDED": None}}
    scene = Scene()
    scene.task(time.time() - 61, "progress", name="shop.import")
    young = scene.task(time.time(), "progress", name="shop.import")
    ended = scene.task(time.time() - 99, "succeeded", name="shop.import")
    scene.shoot()
    assert set(TaskState.objects.values_list("state", flat=True)) == {"PROGRESS", "SUCCESS"}
    scene.camera.on_cleanup()
    assert set(TaskState.objects.values_list("task_id", flat=True)) == {young, ended}


@on_sqlite
def test_odd_events_break_nothing() -> None:
    scene = Scene(result_extended=True)

    @scene.app.task(name="x" * 200, shared=False)
    def known() -> None: ...

    scene.task(
        time.time(), "received", name="x" * 200, args="a\x00b", eta="soon", expires="2020-13"
    )
    scene.task(time.time(), "received", name="y" * 900, retries="many")
    scene.task(time.time(), "received", uuid="z" * 300)
    scene.task(time.time(), "sent", eta="2026-01-02T03:04:05", expires="2026-01-02T03:04:05+02:00")
    scene.shoot()
    assert {(row.args, row.eta is None) for row in TaskState.objects.all()} == {
        ("ab", True),
        (None, False),
    }


@pytest.mark.usefixtures("_rows")
def test_half_characters_and_impossible_moments_hold_up_nothing() -> None:
    scene = Scene(result_extended=True)

    @scene.app.task(name="shop.add", shared=False)
    def add() -> None: ...

    half = "caf\udce9"  # as of the name of a file that is not UTF-8
    told = {"args": half, "kwargs": half, "exception": f"OSError({half!r})", "traceback": half}
    bad = scene.task(time.time(), "received", "failed", name="shop.add", hostname=half, **told)
    scene.task(time.time(), "received", uuid=f"id-{half}", name=half)
    scene.event("worker-heartbeat", 1e18, hostname="lost@time")
    good = scene.task(time.time(), "received", name="shop.add")
    scene.shoot()
    assert not scene.camera._waiting
    assert set(TaskState.objects.values_list("task_id", flat=True)) == {bad, good}
    row = TaskState.objects.get(task_id=bad)
    assert row.traceback == "caf\\udce9"
    assert row.worker is not None
    assert row.worker.hostname == "caf\\udce9"


@pytest.mark.usefixtures("_rows")
def test_a_camera_that_starts_anew_keeps_what_it_has_not_heard() -> None:
    before, at = Scene(), time.time()
    task_id = before.task(at, "received", "started", name="shop.add", retries=2, eta="2026-01-02")
    ended = before.task(at, "received", "succeeded", name="shop.add", runtime=0.5)
    before.shoot()
    after = Scene()
    after.task(at + 5, "succeeded", uuid=task_id, runtime=0.25)
    # What was on its way longer than a newer event.
    after.task(at - 5, "started", uuid=ended)
    after.shoot()
    row = TaskState.objects.get(task_id=task_id)
    assert (row.state, row.name, row.retries, row.runtime) == ("SUCCESS", "shop.add", 2, 0.25)
    assert row.eta is not None
    row = TaskState.objects.get(task_id=ended)
    assert (row.state, row.runtime, row.tstamp) == ("SUCCESS", 0.5, from_timestamp(at + 1))


@pytest.mark.usefixtures("_rows")
def test_an_end_counts_though_the_clocks_of_hosts_differ() -> None:
    at = time.time()
    for again in (False, True):
        scene = Scene()
        task_id = scene.task(at + 60, "sent", name="shop.add")
        scene.shoot()
        scene = Scene() if again else scene
        scene.task(at, "received", "started", "succeeded", uuid=task_id, name="shop.add")
        scene.shoot()
        assert TaskState.objects.get(task_id=task_id).state == "SUCCESS"


@pytest.mark.usefixtures("_rows")
def test_a_task_that_the_database_refuses_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene()
    bad = scene.task(time.time(), "received", "succeeded")
    good = scene.task(time.time(), "received", "succeeded")
    write: Any = TaskStateManager.store

    def store(self: Any, rows: Any) -> None:
        if any(row.task_id == bad for row in rows):
            raise DataError("refused")
        write(self, rows)

    monkeypatch.setattr(TaskStateManager, "store", store)
    scene.shoot()
    assert TaskState.objects.get().task_id == good
    assert "cannot be kept: DataError" in caplog.text
    assert not scene.camera._waiting


@on_sqlite
def test_a_worker_whose_row_was_deleted_is_written_again() -> None:
    scene = Scene()
    with freeze() as clock:
        scene.task(clock.now(), "received", "succeeded")
        scene.shoot()
        WorkerState.objects.all().delete()
        late = scene.task(clock.now(), "received", "succeeded")
        scene.shoot()
        clock.advance(camera.TRY_SECONDS)
        scene.shoot()
    row = TaskState.objects.get(task_id=late)
    assert row.worker is not None
    assert row.worker.hostname == "one@host"


@pytest.mark.usefixtures("_rows")
def test_workers_that_are_long_gone_go_too(settings: Any) -> None:
    scene = Scene()
    day = timedelta(days=1)
    WorkerState.objects.store({"gone": now() - 6 * day, "late": now() - 4 * day, "new": None})
    settings.ASYNC_CACHE = {"MONITOR": {"KEEP_PENDING": None}}
    scene.camera.on_cleanup()
    assert WorkerState.objects.count() == 3
    settings.ASYNC_CACHE = {}
    scene.camera.on_cleanup()
    assert set(WorkerState.objects.values_list("hostname", flat=True)) == {"late", "new"}


@on_sqlite
def test_old_tasks_go_in_parts_and_snapshots_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera, "PURGE_BATCH", 10)
    scene = Scene()
    old = now() - timedelta(days=9)
    rows = [TaskState(task_id=f"old-{n}", state="SUCCESS", tstamp=old) for n in range(35)]
    TaskState.objects.store(rows)
    new = scene.task(time.time(), "received", "succeeded")
    scene.camera.on_cleanup()
    assert TaskState.objects.get().task_id == new


@on_sqlite
def test_the_last_snapshot_is_written_when_the_camera_is_asked_to_end() -> None:
    scene = Scene()
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    scene.camera.freq = 3_600.0
    try:
        scene.camera.install()
        with pytest.raises(SystemExit):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
        scene.camera.capture()
        last = scene.task(time.time(), "received", "succeeded")
        scene.camera.cancel()
        scene.camera.timer.stop()
    assert TaskState.objects.get().task_id == last


@pytest.fixture
def events(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Return what starts ``celery events`` with our camera, as a user does."""
    started: list[Process] = []

    def start(worker: WorkerProcess, overrides: dict[str, Any]) -> Process:
        command = [sys.executable, "-m", "celery", "-A", "tests.celery_app", "events"]
        command += ["--camera", "async_cache.monitor.Camera", "--frequency", "0.2"]
        environment = worker._environment(overrides)
        log = tmp_path / "events"
        started.append(Process(command, log, grace=5, env=environment, cwd=ROOT))
        return started[-1]

    yield start
    for process in started:
        process.stop()


@pytest.mark.integration
@on_postgres
def test_a_real_worker_and_a_real_camera(
    settings: Any,
    postgres_url: str,
    celery_worker_process: Callable[..., WorkerProcess],
    events: Callable[..., Process],
) -> None:
    from tests.celery_app import app

    settings.DATABASE_ROUTERS = [f"{__name__}.OnPostgres"]
    overrides = {
        "DATABASE_ROUTERS": settings.DATABASE_ROUTERS,
        "CELERY_WORKER_SEND_TASK_EVENTS": True,
        "CELERY_RESULT_EXTENDED": True,
        "CELERY_IMPORTS": ["tests.monitor.tasks"],
    }
    worker = celery_worker_process(broker="redis", overrides=overrides)
    process = events(worker, overrides)
    end = time.monotonic() + 60
    never = threading.Event()
    ids: list[str] = []
    while TaskState.objects.filter(state="SUCCESS", task_id__in=ids).count() < 3:
        # Events that came before the camera was there are not heard.
        assert time.monotonic() < end, process.output() + worker.log
        for name in ("linger", "whisper"):
            ids.append(app.send_task(f"tests.monitor.{name}", [0]).id)
        never.wait(0.2)
    rows = TaskState.objects.filter(state="SUCCESS").select_related("worker")
    assert {row.worker.hostname for row in rows if row.worker} == {f"{worker.name}@localhost"}
    # It knows which of the tasks has what must not be shown.
    told = {row.name: row.args for row in rows if row.name}
    assert told == {"tests.monitor.linger": "[0]", "tests.monitor.whisper": None}
