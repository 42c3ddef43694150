"""The admin: read-only, light queries, actions with permissions."""

from __future__ import annotations

import re
from typing import Any

import pytest
from celery import current_app
from django.contrib.auth.models import Permission
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from async_cache import listing
from async_cache.listing import EstimatingPaginator, by_prefix
from async_cache.results.codec import encode_error, encode_value
from async_cache.results.layers.database import DatabaseLayer
from async_cache.results.models import GroupResult, TaskResult
from async_cache.results.records import Record, rank
from tests.results.databases import DATABASES, analyze, on_databases, planned

pytestmark = on_databases

LIST = "admin:async_cache_results_taskresult_changelist"


@pytest.fixture
def staff(client: Client, django_user_model: Any) -> Any:
    """Log in as staff with the permissions given."""

    def log_in(*names: str) -> Client:
        user = django_user_model.objects.create_user("u", is_staff=True)
        found = Permission.objects.filter(
            content_type__app_label="async_cache_results", codename__in=names
        )
        assert found.count() == len(names)
        user.user_permissions.set(found)
        client.force_login(user)
        return client

    return log_in


def fill(*task_ids: str, using: str = "default", **fields: Any) -> None:
    records = [Record(name, **{"name": "shop.add", **fields}) for name in task_ids]
    DatabaseLayer(using).save_many(records)


def ids(response: Any) -> set[str]:
    return set(re.findall(r"/change/[^>]*>([^<]+)</a>", response.content.decode()))


def test_the_list_leaves_large_columns_where_they_are(admin_client: Client) -> None:
    fill("one", state="SUCCESS", value=b"x", traceback="t", args="(1,)")
    with CaptureQueriesContext(connections["default"]) as queries:
        response = admin_client.get(reverse(LIST))
    assert ids(response) == {"one"}
    rows = [q["sql"] for q in queries.captured_queries if "taskresult" in q["sql"]]
    assert len(rows) == 2
    for sql in rows:
        assert "DISTINCT" not in sql
        for column in ("result", "traceback", "meta", "task_args", "task_kwargs"):
            assert f'"{column}"' not in sql


def test_the_list_stays_as_many_queries_for_many_rows(admin_client: Client) -> None:
    def count() -> int:
        with CaptureQueriesContext(connections["default"]) as queries:
            admin_client.get(reverse(LIST))
        return len(queries)

    fill("one")
    admin_client.get(reverse(LIST))
    few = count()
    fill(*(f"t{n}" for n in range(40)))
    assert count() == few


def test_a_search_is_for_a_beginning(admin_client: Client) -> None:
    fill("abc-1", "ABC-2", "x-abc", "ab%")
    fill("other", name="abc.task")
    url = reverse(LIST)
    assert ids(admin_client.get(url, {"q": "abc"})) == {"abc-1", "other"}
    assert ids(admin_client.get(url, {"q": "ab%"})) == {"ab%"}
    assert ids(admin_client.get(url, {"q": "shop"})) == {"abc-1", "ABC-2", "x-abc", "ab%"}
    assert ids(admin_client.get(url, {"q": "a\x00"})) >= {"abc-1"}
    with CaptureQueriesContext(connections["default"]) as queries:
        admin_client.get(url, {"q": "abc"})
    assert not [q for q in queries.captured_queries if "DISTINCT" in q["sql"]]


def test_a_state_is_filtered_by_its_index(admin_client: Client) -> None:
    fill("a", state="SUCCESS")
    fill("b", state="STARTED")
    fill("c", state="PROGRESS")
    assert ids(admin_client.get(reverse(LIST), {"status": "SUCCESS"})) == {"a"}
    assert ids(admin_client.get(reverse(LIST), {"status": "PROGRESS"})) == {"c"}


class Router:
    """Puts the results on the database `alias`."""

    alias = "default"

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        return self.alias if model._meta.app_label == "async_cache_results" else None

    db_for_write = db_for_read


@pytest.fixture(params=DATABASES)
def using(request: pytest.FixtureRequest, settings: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the admin work on each kind of database."""
    settings.DATABASE_ROUTERS = [f"{__name__}.Router"]
    monkeypatch.setattr(Router, "alias", request.param)
    return str(request.param)


PAGES: list[tuple[dict[str, str], str]] = [
    ({}, "acr_task_done"),
    ({"status": "FAILURE"}, "acr_task_status"),
    ({"o": "6", "status": "FAILURE"}, "acr_task_status"),
    ({"p": "2"}, "acr_task_done"),
    ({"q": "shop.7"}, "acr_task_name"),
]


def test_the_list_is_read_by_an_index(admin_client: Client, using: str) -> None:
    fill(*(f"{n:05}" for n in range(2_000)), using=using, traceback="x" * 1_000)
    fill(*(f"f{n:05}" for n in range(20)), using=using, state="FAILURE", name="shop.7")
    analyze(using)
    for asked, index in PAGES:
        with CaptureQueriesContext(connections[using]) as queries:
            page = admin_client.get(reverse(LIST), asked)
        assert ids(page)
        (rows,) = [
            query["sql"]
            for query in queries.captured_queries
            if "ORDER BY" in query["sql"] and "taskresult" in query["sql"]
        ]
        plan = planned(using, rows)
        assert index in plan, asked
        assert "Seq Scan" not in plan


def test_the_list_of_each_database(admin_client: Client, using: str) -> None:
    fill("abc-1", "abc-2", "ABC-3", using=using, state="SUCCESS", traceback="large")
    with CaptureQueriesContext(connections[using]) as queries:
        assert ids(admin_client.get(reverse(LIST), {"q": "abc"})) == {"abc-1", "abc-2"}
    assert not [q for q in queries.captured_queries if "traceback" in q["sql"]]
    row = TaskResult.objects.get(task_id="abc-1")
    url = reverse("admin:async_cache_results_taskresult_change", args=[row.pk])
    assert "large" in admin_client.get(url).content.decode()
    assert "Forgot 1 results" in act(admin_client, "forget", "abc-1").content.decode()
    assert TaskResult.objects.count() == 2


def test_a_prefix_is_found_by_an_index(using: str) -> None:
    fill(*(f"{n:05}-task" for n in range(3_000)), using=using)
    rows = TaskResult.objects.using(using)
    analyze(using)
    found = rows.filter(by_prefix(using, "task_id", "00012")).order_by()
    assert [row.task_id for row in found] == ["00012-task"]
    plan = found.explain()
    assert any(word in plan for word in ("Index", "USING INDEX", "range task_id"))
    assert "Seq Scan" not in plan


def test_many_rows_are_estimated(using: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(*(f"t{n}" for n in range(500)), using=using)
    analyze(using)
    rows = TaskResult.objects.using(using)
    assert EstimatingPaginator(rows.filter(status="PENDING"), 50).count == 500
    monkeypatch.setattr(listing, "EXACT", 100)
    with CaptureQueriesContext(connections[using]) as queries:
        assert 450 <= EstimatingPaginator(rows.all(), 50).count <= 550
        assert 450 <= EstimatingPaginator(rows.filter(status="PENDING"), 50).count <= 550
    assert "LIMIT 101" in queries.captured_queries[0]["sql"]
    if connections[using].vendor != "sqlite":
        assert "EXPLAIN" in queries.captured_queries[1]["sql"]
        assert len(queries) == 4
    assert EstimatingPaginator([1, 2], 50).count == 2


def test_rows_are_shown_and_not_changed(admin_client: Client) -> None:
    fill("one", state="SUCCESS", value=b'"kept"', content_type="application/json", meta="{}",
         content_encoding="utf-8")  # fmt: skip
    row = TaskResult.objects.get()
    url = reverse("admin:async_cache_results_taskresult_change", args=[row.pk])
    response = admin_client.get(url)
    assert "&quot;kept&quot;" in response.content.decode()
    assert 'name="_save"' not in response.content.decode()
    assert admin_client.post(url, {"status": "FAILURE"}).status_code == 403
    add = reverse("admin:async_cache_results_taskresult_add")
    assert admin_client.get(add).status_code == 403
    group = GroupResult.objects.store_group_result("", "", "g", "[]")
    url = reverse("admin:async_cache_results_groupresult_change", args=[group.pk])
    assert admin_client.get(url).status_code == 200
    groups = reverse("admin:async_cache_results_groupresult_changelist")
    assert ids(admin_client.get(groups, {"q": "g"})) == {"g"}


def test_a_value_is_shown_as_it_was_returned(admin_client: Client) -> None:
    layer = DatabaseLayer()
    good, bad = encode_value({"sum": (1, "<b>")}, "good"), encode_error(KeyError("lost"))
    layer.save(Record("good", state="SUCCESS", **good._asdict()))
    layer.save(Record("bad", state="FAILURE", **bad._asdict()))
    layer.save(Record("moved", state="SUCCESS", **good._asdict()))
    fill("broken", state="SUCCESS", value=b"\xff", content_encoding="binary")
    TaskResult.objects.filter(task_id="broken").update(result="no base64!")
    fill("going", state="STARTED")

    def page(task_id: str) -> str:
        row = TaskResult.objects.get(task_id=task_id)
        url = reverse("admin:async_cache_results_taskresult_change", args=[row.pk])
        response = admin_client.get(url)
        assert response.status_code == 200
        return str(response.content.decode())

    assert "&quot;&lt;b&gt;&quot;" in page("good")
    assert "builtins.KeyError: " in page("bad")
    for task_id in ("moved", "broken"):
        assert "It cannot be read" in page(task_id)
    assert "It cannot be read" not in page("going")


def test_rows_are_edited_where_the_setting_allows_it(staff: Any, settings: Any) -> None:
    settings.DJANGO_CELERY_RESULTS = {"ALLOW_EDITS": True}
    fill("one", state="STARTED", value=b"kept", args="(1,)")
    row = TaskResult.objects.get()
    url = reverse("admin:async_cache_results_taskresult_change", args=[row.pk])
    client = staff("view_taskresult", "change_taskresult")
    assert 'name="result"' not in client.get(url).content.decode()
    given = {"status": "FAILURE", "task_name": "shop.add", "task_args": "(2,)", "worker": "w"}
    assert client.post(url, given).status_code == 302
    changed = TaskResult.objects.get()
    assert (changed.status, changed.task_args, changed.result) == ("FAILURE", "(2,)", row.result)
    assert changed.rank == rank(0, "FAILURE")
    # A late state does not overwrite what was set by hand.
    fill("one", state="STARTED")
    assert TaskResult.objects.get().status == "FAILURE"


def test_only_who_may_change_rows_edits_them(staff: Any, settings: Any) -> None:
    settings.DJANGO_CELERY_RESULTS = {"ALLOW_EDITS": True}
    fill("one", state="STARTED")
    row = TaskResult.objects.get()
    url = reverse("admin:async_cache_results_taskresult_change", args=[row.pk])
    assert staff("view_taskresult").post(url, {"status": "FAILURE"}).status_code == 403


def act(client: Client, action: str, *names: str) -> Any:
    chosen = list(TaskResult.objects.filter(task_id__in=names).values_list("pk", flat=True))
    return client.post(reverse(LIST), {"action": action, "_selected_action": chosen}, follow=True)


def test_forget_needs_the_permission_and_a_post(staff: Any) -> None:
    fill("one", "two")
    client = staff("view_taskresult")
    act(client, "forget", "one")
    client.get(reverse(LIST), {"action": "forget", "_selected_action": 1})
    assert TaskResult.objects.count() == 2
    page = client.get(reverse(LIST)).content.decode()
    assert 'value="forget"' not in page


def test_forget_deletes(staff: Any) -> None:
    fill("one", "two")
    response = act(staff("view_taskresult", "delete_taskresult"), "forget", "one")
    assert "Forgot 1 results." in response.content.decode()
    assert TaskResult.objects.get().task_id == "two"


@pytest.fixture
def task() -> Any:
    @current_app.task(name="tests.results.admin_add")
    def add(a: int, b: int = 0) -> int:
        return a + b

    yield add
    current_app.tasks.unregister("tests.results.admin_add")


def messages_taken() -> list[Any]:
    with current_app.connection_for_read() as connection:
        queue = connection.SimpleQueue(current_app.conf.task_default_queue)
        taken = []
        while queue.qsize():
            message = queue.get_nowait()
            message.ack()
            taken.append((message.headers["task"], message.payload[0], message.payload[1]))
        queue.close()
        return taken


def test_a_task_is_sent_again(staff: Any, task: Any) -> None:
    messages_taken()
    fill("one", name=task.name, state="FAILURE", args="(1,)", kwargs="{'b': 2}")
    fill("new", name=task.name, state="STARTED", args="(1,)", kwargs="{}")
    fill("cut", name=task.name, state="FAILURE", args="(1, ...)", kwargs="{}")
    fill("bare", name=task.name, state="FAILURE")
    fill("foreign", name="nobody.knows", state="FAILURE", args="()", kwargs="{}")
    client = staff("view_taskresult", "retry_taskresult")
    page = act(client, "retry", "one", "new", "cut", "bare", "foreign").content.decode()
    assert messages_taken() == [(task.name, [1], {"b": 2})]
    for said in ("Sent 1 tasks again", "not ended", "completely", "are not stored", "not known"):
        assert said in page
    fill(*(f"bare-{n}" for n in range(30)), name=task.name, state="FAILURE")
    with CaptureQueriesContext(connections["default"]) as queries:
        page = act(client, "retry", *(f"bare-{n}" for n in range(30))).content.decode()
    assert len([q for q in queries.captured_queries if "task_kwargs" in q["sql"]]) == 1
    assert page.count("are not stored") == 20
    assert "10 more were not sent" in page
    task.redact = lambda args, kwargs: (args, kwargs)
    assert "redacted" in act(client, "retry", "one").content.decode()
    assert messages_taken() == []


def test_retry_and_terminate_need_their_permissions(staff: Any, task: Any) -> None:
    messages_taken()
    fill("one", name=task.name, state="FAILURE", args="(1,)", kwargs="{}")
    client = staff("view_taskresult", "delete_taskresult")
    act(client, "retry", "one")
    act(client, "terminate", "one")
    assert messages_taken() == []


def test_running_tasks_are_terminated(staff: Any, task: Any) -> None:
    heard: list[dict[str, Any]] = []
    with current_app.connection_for_read() as connection:
        control: Any = current_app.control
        box = control.mailbox.Node("here", channel=connection.default_channel)
        box.handlers["revoke"] = lambda state, **arguments: heard.append(arguments)
        consumer = box.listen()
        fill("going", name=task.name, state="STARTED")
        fill("ended", name=task.name, state="SUCCESS")
        client = staff("view_taskresult", "terminate_taskresult")
        page = act(client, "terminate", "going", "ended").content.decode()
        assert "end 1 tasks" in page
        connection.drain_events(timeout=10)
        consumer.cancel()
    assert heard[0]["task_id"] == ["going"]
    assert heard[0]["terminate"] is True
    assert "None of them" in act(client, "terminate", "ended").content.decode()


def test_a_broker_that_is_down_is_told(staff: Any, task: Any, settings: Any) -> None:
    fill("going", name=task.name, state="STARTED")
    fill("a", "b", name=task.name, state="FAILURE", args="(1,)", kwargs="{}")
    client = staff("view_taskresult", "terminate_taskresult", "retry_taskresult")
    conf: Any = current_app.conf
    conf.broker_write_url = "redis://127.0.0.1:1/0"
    try:
        page = act(client, "terminate", "going").content.decode()
        again = act(client, "retry", "a", "b").content.decode()
    finally:
        # Set back to what it was, it would hide the broker of later tests.
        conf.changes.pop("broker_write_url")
    assert "The broker does not answer" in page
    # One wait, however many were chosen.
    assert again.count("The broker does not answer") == 1
