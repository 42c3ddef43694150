"""The status views: answers, permission, and no id that breaks them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from django.http import HttpRequest
from django.test import Client, RequestFactory
from django.urls import reverse

from async_cache.exceptions import StoreUnavailable
from async_cache.results import views
from async_cache.results.codec import encode_error, encode_value
from async_cache.results.layers import get_cache_layer, get_database_layer
from async_cache.results.models import GroupResult, TaskResult
from async_cache.results.records import Record

pytestmark = pytest.mark.django_db


def permit(request: HttpRequest, name: str) -> bool:
    return name != "secret"


@pytest.fixture
def ask(client: Client, settings: Any) -> Any:
    settings.ASYNC_CACHE = {"RESULTS": {"VIEW_PERMISSION": f"{__name__}.permit"}}

    def ask(view: str, name: str, status: int = 200) -> Any:
        response = client.get(reverse(f"celery-{view}", args=[name]))
        assert response.status_code == status
        assert "no-cache" in response["Cache-Control"]
        return json.loads(response.content)

    return ask


def success(task_id: str, value: object, **fields: Any) -> Record:
    return Record(task_id, state="SUCCESS", **{**encode_value(value, task_id)._asdict(), **fields})


def failure(task_id: str, **fields: Any) -> Record:
    encoded = encode_error(ValueError("too bad"))._asdict()
    return Record(task_id, state="FAILURE", traceback="line 1", **{**encoded, **fields})


def test_a_task_that_is_done(ask: Any) -> None:
    get_database_layer().save(success("one", {"a": (1, 2)}))
    assert ask("is_task_successful", "one") == {"task": {"id": "one", "executed": True}}
    assert ask("task_status", "one") == {
        "task": {"id": "one", "status": "SUCCESS", "result": {"a": [1, 2]}}
    }


def test_a_task_in_the_cache(ask: Any) -> None:
    get_cache_layer().save(success("cached", None))
    assert ask("is_task_successful", "cached")["task"]["executed"] is True
    assert ask("task_status", "cached")["task"] == {
        "id": "cached",
        "status": "SUCCESS",
        "result": None,
    }


def test_a_task_that_failed(ask: Any) -> None:
    get_database_layer().save(failure("bad"))
    assert ask("is_task_successful", "bad")["task"]["executed"] is False
    assert ask("task_status", "bad")["task"] == {
        "id": "bad",
        "status": "FAILURE",
        "result": "too bad",
        "exc": "builtins.ValueError",
        "traceback": "line 1",
    }


@pytest.mark.parametrize("name", ["unknown", "ünï", "a b", "%", "a..b", "x" * 1_000, "-", "'"])
def test_an_unknown_id_is_no_error(ask: Any, name: str) -> None:
    assert ask("is_task_successful", name) == {"task": {"id": name, "executed": False}}
    assert ask("task_status", name)["task"] == {"id": name, "status": "PENDING", "result": None}
    assert ask("is_group_successful", name) == {"group": {"id": name, "results": []}}
    assert ask("group_status", name) == {"group": {"id": name, "results": []}}


def test_a_nul_in_an_id_is_refused(ask: Any) -> None:
    assert ask("task_status", "a\x00b", status=400)


def test_values_that_json_cannot_hold(ask: Any) -> None:
    layer = get_database_layer()
    for name, value, shown in [
        ("set", {1}, "{1}"),
        ("nan", float("nan"), "nan"),
        ("key", {(1, 2): 3}, "{(1, 2): 3}"),
        ("decimal", Decimal("1.5"), "1.5"),
        ("date", datetime(2020, 1, 2, tzinfo=UTC), "2020-01-02T00:00:00Z"),
    ]:
        layer.save(success(name, value))
        assert ask("task_status", name)["task"]["result"] == shown


def test_a_value_that_does_not_open_is_told(ask: Any) -> None:
    layer = get_database_layer()
    layer.save(success("one", 1))
    layer.save(success("two", 2))
    moved = TaskResult.objects.get(task_id="one").result
    TaskResult.objects.filter(task_id="two").update(result=moved)
    task = ask("task_status", "two")["task"]
    assert task["result"] is None
    assert "seal" in task["unreadable"]


@pytest.mark.parametrize("where", [get_database_layer, get_cache_layer])
def test_a_group_in_call_order(ask: Any, where: Any) -> None:
    layer = where()
    layer.save(failure("b", group="g", sequence=2))
    layer.save(success("a", 1, group="g", sequence=1))
    layer.save(Record("c", state="STARTED", group="g", sequence=3))
    assert ask("is_group_successful", "g") == {
        "group": {
            "id": "g",
            "results": [
                {"id": "a", "executed": True},
                {"id": "b", "executed": False},
                {"id": "c", "executed": False},
            ],
        }
    }
    found = ask("group_status", "g")["group"]["results"]
    assert [(one["id"], one["status"], one["result"]) for one in found] == [
        ("a", "SUCCESS", 1),
        ("b", "FAILURE", "too bad"),
        ("c", "STARTED", None),
    ]


def test_a_group_that_a_backend_saved(ask: Any) -> None:
    saved = [["g", None], [[["a", None], None], [["inner", None], [[["b", None], None]]]]]
    GroupResult.objects.store_group_result("application/json", "utf-8", "g", json.dumps(saved))
    get_database_layer().save(success("a", 1))
    get_cache_layer().save(success("b", 2))
    found = ask("group_status", "g")["group"]["results"]
    assert [(one["id"], one["result"]) for one in found] == [("a", 1), ("b", 2)]
    for text in ("no json", "[1]", '{"a": 1}', "[[[]]]", "null", ""):
        GroupResult.objects.store_group_result("application/json", "utf-8", "g", text)
        assert ask("group_status", "g")["group"]["results"] == []


def test_the_permission_is_asked(ask: Any) -> None:
    for view in ("is_task_successful", "task_status", "is_group_successful", "group_status"):
        assert ask(view, "secret", status=403) == {"error": "forbidden"}


def test_only_staff_may_ask_by_default(client: Client, django_user_model: Any) -> None:
    url = reverse("celery-task_status", args=["one"])
    assert client.get(url).status_code == 403
    user = django_user_model.objects.create_user("u")
    client.force_login(user)
    assert client.get(url).status_code == 403
    user.is_staff = True
    user.save()
    assert client.get(url).status_code == 200
    assert client.post(url).status_code == 405
    request = RequestFactory().get(url)
    assert views.task_status(request, "one").status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        *("one/done/", "one/status/", "one/group/done/", "one/group/status/"),
        *("task/done/one/", "task/status/one/", "group/done/one/", "group/status/one/"),
    ],
)
def test_both_forms_of_the_urls(admin_client: Client, path: str) -> None:
    response = admin_client.get(f"/results/{path}")
    assert response.status_code == 200
    ((_, answer),) = response.json().items()
    assert answer["id"] == "one"


def test_the_noun_comes_first_in_a_reversed_url() -> None:
    assert reverse("celery-task_status", args=["one"]) == "/results/task/status/one/"


def test_a_store_that_does_not_answer_is_503(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object, __: object) -> None:
        raise StoreUnavailable("down")

    monkeypatch.setattr(type(get_database_layer()), "get_many", fail)
    assert "error" in ask("task_status", "one", status=503)
