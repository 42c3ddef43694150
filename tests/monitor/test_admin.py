"""Workers and tasks in the admin: read-only, light queries, actions with permissions."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from celery import current_app
from django.contrib.auth.models import Permission
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from async_cache.monitor.control import is_rate
from async_cache.monitor.models import TaskState, WorkerState
from async_cache.monitor.moments import now
from tests.results.databases import DATABASES, analyze, on_databases, planned
from tests.workers import WorkerProcess

pytestmark = on_databases

TABLE = "async_cache_monitor_taskstate"
LIST = f"admin:{TABLE}_changelist"
WORKERS = "admin:async_cache_monitor_workerstate_changelist"


class Router:
    """Puts the monitor's rows on the database `alias`."""

    alias = "default"

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        return self.alias if model._meta.app_label == "async_cache_monitor" else None

    db_for_write = db_for_read


@pytest.fixture(params=DATABASES)
def using(request: pytest.FixtureRequest, settings: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the admin work on each kind of database."""
    settings.DATABASE_ROUTERS = [f"{__name__}.Router"]
    monkeypatch.setattr(Router, "alias", request.param)
    return str(request.param)


@pytest.fixture
def staff(client: Client, django_user_model: Any) -> Callable[..., Client]:
    """Log in as staff with the permissions given."""

    def log_in(*names: str) -> Client:
        user = django_user_model.objects.create_user("u", is_staff=True)
        found = Permission.objects.filter(
            content_type__app_label="async_cache_monitor", codename__in=names
        )
        assert found.count() == len(names)
        user.user_permissions.set(found)
        client.force_login(user)
        return client

    return log_in


def fill(*task_ids: str, **fields: Any) -> None:
    given = {"state": "STARTED", "name": "shop.add", **fields}
    at = now()
    rows = [
        TaskState(task_id=name, tstamp=at - timedelta(seconds=n), **given)
        for n, name in enumerate(task_ids)
    ]
    TaskState.objects.store(rows)


def ids(response: Any) -> set[str]:
    return set(re.findall(r"/change/[^>]*>([^<]+)</a>", response.content.decode()))


def act(client: Client, action: str, *names: str, **more: Any) -> Any:
    chosen = list(TaskState.objects.filter(task_id__in=names).values_list("pk", flat=True))
    given = {"action": action, "_selected_action": chosen, **more}
    return client.post(reverse(LIST), given, follow=True)


def test_the_lists_of_each_database(admin_client: Client, using: str) -> None:
    keys = WorkerState.objects.store({"one@host": now(), "two@host": None})
    fill("abc-1", "ABC-2", worker_id=keys["one@host"], args="large", traceback="large")
    fill("other", name="abc.task", state="PROGRESS")
    with CaptureQueriesContext(connections[using]) as queries:
        page = admin_client.get(reverse(LIST), {"q": "abc"})
    assert ids(page) == {"abc-1", "other"} | ({"ABC-2"} if using == "mariadb" else set())
    assert "one@host" in page.content.decode()
    told = [q["sql"] for q in queries.captured_queries if TABLE in q["sql"]]
    assert len(told) == 2
    for sql in told:
        assert "DISTINCT" not in sql
        assert "traceback" not in sql
    assert ids(admin_client.get(reverse(LIST), {"state": "PROGRESS"})) == {"other"}
    row = TaskState.objects.get(task_id="abc-1")
    url = reverse(f"admin:{TABLE}_change", args=[row.pk])
    assert "large" in admin_client.get(url).content.decode()
    assert admin_client.post(url, {"state": "SUCCESS"}).status_code == 403
    assert admin_client.get(reverse(f"admin:{TABLE}_add")).status_code == 403
    assert admin_client.get(reverse(f"admin:{TABLE}_delete", args=[row.pk])).status_code == 403
    page = admin_client.get(reverse(WORKERS), {"q": "one"})
    assert ids(page) == {"one@host"}
    assert 'alt="True"' in page.content.decode()
    page = admin_client.get(reverse(WORKERS), {"q": "two"})
    assert 'alt="False"' in page.content.decode()


MANY = 20_000
PAGES: list[tuple[dict[str, str], str]] = [
    ({}, "tstamp"),
    ({"state": "FAILURE"}, "async_cache_state_tstamp"),
    ({"p": "2"}, "tstamp"),
    ({"q": "shop.7"}, "name"),
]


def test_the_list_is_read_by_an_index(admin_client: Client, using: str) -> None:
    numbers = {
        "postgresql": f"generate_series(1, {MANY}) s(n)",
        "sqlite": "s",
        "mysql": f"seq_1_to_{MANY} s",
    }[connections[using].vendor]
    first = f"WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM s WHERE n < {MANY}) "
    n = "seq" if connections[using].vendor == "mysql" else "n"
    text = f"CONCAT('t', {n})" if connections[using].vendor == "mysql" else f"'t' || {n}"
    with connections[using].cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {TABLE} (state, task_id, name, tstamp, retries, hidden, traceback) "
            + (first if connections[using].vendor == "sqlite" else "")
            + f"SELECT 'SUCCESS', {text}, 'shop.add', '2026-01-01', 0, false, 'large' "
            + f"FROM {numbers}"
        )
    fill(*(f"f{n}" for n in range(120)), state="FAILURE", name="shop.7")
    analyze(using, TABLE)
    for asked, index in PAGES:
        if connections[using].vendor == "mysql" and "p" in asked:
            continue  # it rather sorts a table that is as small as this one
        with CaptureQueriesContext(connections[using]) as queries:
            page = admin_client.get(reverse(LIST), asked)
        assert ids(page)
        told = [q["sql"] for q in queries.captured_queries if TABLE in q["sql"]]
        assert len(told) <= 4
        rows = next(sql for sql in told if "ORDER BY" in sql)
        plan = planned(using, rows)
        assert index in plan, asked
        assert "Seq Scan on async_cache_monitor_taskstate" not in plan


def heard(control: str, do: Callable[[], Any]) -> list[dict[str, Any]]:
    """Return what a worker would hear of one kind of command while something is done."""
    told: list[dict[str, Any]] = []
    with current_app.connection_for_read() as connection:
        mailbox: Any = current_app.control.mailbox  # type: ignore[attr-defined]
        box = mailbox.Node("here", channel=connection.default_channel)
        box.handlers[control] = lambda state, **arguments: told.append(arguments)
        consumer = box.listen()
        try:
            do()
            connection.drain_events(timeout=10)
        finally:
            consumer.cancel()
    return told


def test_tasks_are_revoked_and_terminated(staff: Any) -> None:
    fill("going")
    fill("ended", state="SUCCESS")
    client = staff("view_taskstate", "revoke_taskstate", "terminate_taskstate")
    pages: list[str] = []

    def do(action: str) -> Callable[[], None]:
        return lambda: pages.append(act(client, action, "going", "ended").content.decode())

    [told] = heard("revoke", do("revoke"))
    assert (told["task_id"], told["terminate"]) == (["going"], False)
    [told] = heard("revoke", do("terminate"))
    assert (told["task_id"], told["terminate"]) == (["going"], True)
    assert "Told the workers not to begin 1 tasks" in pages[0]
    assert "Told the workers to end 1 tasks" in pages[1]
    assert "All of them have ended" in act(client, "revoke", "ended").content.decode()


def test_the_rate_of_tasks_is_limited(staff: Any) -> None:
    fill("one", "two")
    fill("bare", name=None)
    client = staff("view_taskstate", "rate_limit_taskstate")
    asked = act(client, "rate_limit", "one", "two").content.decode()
    assert asked.count("<li>shop.add</li>") == 1
    refused = act(client, "rate_limit", "one", "two", rate="ten a minute").content.decode()
    assert "Give a rate such as 10/m" in refused
    pages: list[str] = []
    [told] = heard(
        "rate_limit",
        lambda: pages.append(
            act(client, "rate_limit", "one", "two", "bare", rate="10/m").content.decode()
        ),
    )
    assert told == {"task_name": "shop.add", "rate_limit": "10/m"}
    assert "Told the workers: shop.add at 10/m at most" in pages[0]
    assert "No name of theirs is known" in act(client, "rate_limit", "bare").content.decode()


def test_a_rate_is_what_celery_takes() -> None:
    from celery.utils.time import rate

    for text in ("10/m", "0", "1.5/s", "100/h", "7"):
        assert is_rate(text)
        assert rate(text) >= 0
    for text in ("", "10/d", "-1/m", "m", "10/m; rm", "10/m\n", "\uff11/m", "1e3"):
        assert not is_rate(text)


@pytest.mark.parametrize("action", ["revoke", "terminate", "rate_limit"])
def test_each_action_needs_its_permission_and_a_post(
    staff: Any, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill("one")
    names = ["revoke", "terminate", "rate_limit"]
    others = [f"{name}_taskstate" for name in names if name != action]
    client = staff("view_taskstate", *others)
    sent: list[Any] = []
    monkeypatch.setattr("async_cache.monitor.admin.revoke", lambda *a, **k: sent.append(a))
    monkeypatch.setattr("async_cache.monitor.admin.limit_rate", lambda *a: sent.append(a))
    act(client, action, "one", rate="1/m")
    assert f'value="{action}"' not in client.get(reverse(LIST)).content.decode()
    # With all permissions, but by a link.
    user = client.get(reverse(LIST)).context["user"]
    user.user_permissions.add(Permission.objects.get(codename=f"{action}_taskstate"))
    key = TaskState.objects.get().pk
    client.get(reverse(LIST), {"action": action, "_selected_action": key, "rate": "1/m"})
    assert sent == []
    act(client, action, "one", rate="1/m")
    assert len(sent) == 1


def test_many_tasks_at_once_are_refused(staff: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("async_cache.monitor.admin.MAX_TASKS", 2)
    fill("one", "two", "three")
    client = staff("view_taskstate", "revoke_taskstate")
    page = act(client, "revoke", "one", "two", "three").content.decode()
    assert "Choose 2 tasks at most" in page


def test_a_broker_that_is_down_is_told(staff: Any) -> None:
    fill("going")
    client = staff("view_taskstate", "revoke_taskstate", "rate_limit_taskstate")
    conf: Any = current_app.conf
    conf.broker_write_url = "redis://127.0.0.1:1/0"
    started = time.monotonic()
    try:
        pages = [act(client, "revoke", "going"), act(client, "rate_limit", "going", rate="1/m")]
    finally:
        # Set back to what it was, it would hide the broker of later tests.
        conf.changes.pop("broker_write_url")
    for page in pages:
        assert "The broker does not answer" in page.content.decode()
    assert time.monotonic() - started < 60


@pytest.mark.integration
def test_a_real_worker_ends_a_task(
    staff: Any, celery_worker_process: Callable[..., WorkerProcess], tmp_path: Any
) -> None:
    worker = celery_worker_process(
        broker="redis", overrides={"CELERY_IMPORTS": ["tests.monitor.tasks"]}
    )
    sent = current_app.send_task("tests.monitor.linger", [600])
    worker.wait_for(r"lingering")
    fill(sent.id)
    client = staff("view_taskstate", "terminate_taskstate")
    assert "to end 1 tasks" in act(client, "terminate", sent.id).content.decode()
    worker.wait_for(rf"Terminating {re.escape(sent.id)}|Task .*{re.escape(sent.id)}.* revoked")
    # The one process of the pool is free for others again.
    current_app.send_task("tests.monitor.linger", [0])
    end = time.monotonic() + 60
    while worker.log.count("lingering") < 2:
        assert time.monotonic() < end, worker.log
        threading.Event().wait(0.1)
