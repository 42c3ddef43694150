"""The section of the settings, and what ``manage.py check`` says of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import celery
import pytest
from celery import _state
from django.core.checks import run_checks

from async_cache.exceptions import ConfigurationError
from async_cache.results.conf import ResultsSettings, get_results_settings
from async_cache.results.layers import get_cache_layer, get_layer
from async_cache.results.layers.redis import RedisLayer


def messages() -> dict[str, str]:
    """Return what the checks of results say, by id."""
    found = run_checks(tags=["async_cache"])
    return {
        str(m.id).removeprefix("async_cache_results."): m.msg
        for m in found
        if str(m.id).startswith("async_cache_results.")
    }


def test_defaults() -> None:
    assert get_results_settings() == ResultsSettings()


def test_values_in_their_final_form(settings: Any) -> None:
    settings.ASYNC_CACHE = {
        "RESULTS": {
            "CACHE": "file", "PERSIST": "buffered", "EXPIRES": 60, "MAX_WAIT": 5, "CACHED": 30,
            "RETENTION": {"SUCCESS": 60, "*": 5}, "GROUP_CAP": 7, "REFRESHES": 0,
            "SERIALIZER": "json", "TRACK_STARTED": True,
        }
    }  # fmt: skip
    assert get_results_settings() == ResultsSettings(
        "file",
        "buffered",
        60.0,
        5.0,
        30.0,
        {"SUCCESS": 60.0, "*": 5.0},
        7,
        0,
        "json",
        track_started=True,
    )
    settings.ASYNC_CACHE = {}
    assert get_results_settings() == ResultsSettings()


@pytest.mark.parametrize(
    ("section", "part"),
    [
        ({"EXPIRE": 1}, "EXPIRES"),
        ({"EXPIRES": 0}, "EXPIRES"),
        ({"EXPIRES": None}, "EXPIRES"),
        ({"MAX_WAIT": -1}, "MAX_WAIT"),
        ({"PERSIST": "yes"}, "buffered"),
        ({"CACHED": "yes"}, "CACHED"),
        ({"RETENTION": {"SUCCESS": -1}}, "RETENTION"),
        ({"RETENTION": [1]}, "RETENTION"),
        ({"GROUP_CAP": 0}, "GROUP_CAP"),
        ({"CACHE": 7}, "CACHE"),
        ({"TRACK_STARTED": 1}, "TRACK_STARTED"),
        (7, "RESULTS"),
    ],
)
def test_a_bad_section_is_told(settings: Any, section: object, part: str) -> None:
    settings.ASYNC_CACHE = {"RESULTS": section}
    with pytest.raises(ConfigurationError, match=part):
        get_results_settings()
    assert set(messages()) >= {"E001"}


@pytest.mark.parametrize("name", ["SERIALIZER", "VIEW_PERMISSION"])
def test_a_path_that_leads_nowhere_is_told(settings: Any, name: str) -> None:
    settings.ASYNC_CACHE = {"RESULTS": {name: "shop.auth.may_se"}}
    assert "shop.auth.may_se" in messages()["E004"]


@pytest.mark.parametrize(
    ("alias", "expected"),
    [
        ("dummy", {"E003"}),
        ("file", {"E003"}),
        ("default", {"W001"}),
        ("database", {"W002"}),
        ("none", {"E002"}),
    ],
)
def test_a_cache_that_cannot_keep_results_is_named(
    settings: Any, alias: str, expected: set[str]
) -> None:
    settings.ASYNC_CACHE = {"RESULTS": {"CACHE": alias}}
    assert set(messages()) == expected


def test_a_redis_server_has_nothing_to_tell(settings: Any, redis_caches: str) -> None:
    settings.ASYNC_CACHE = {"RESULTS": {"CACHE": "redis", "CACHED": True}}
    assert messages() == {}
    layer = get_layer()
    assert isinstance(layer, RedisLayer)
    assert layer is get_layer(cached=30.0) is get_cache_layer("redis")
    settings.ASYNC_CACHE = {"RESULTS": {"CACHE": "default"}}
    assert get_layer(cached=True) is get_cache_layer("default")
    assert get_layer(cached=True) is not layer


@pytest.fixture
def celery_app(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Make a Celery app the current one for one test; call it without arguments for none."""
    monkeypatch.setattr(vars(_state)["_tls"], "current_app", None)
    monkeypatch.setattr(_state, "default_app", None)

    def make(**config: Any) -> Any:
        return celery.Celery("shop", changes={"broker_url": "memory://", **config})

    return make


@pytest.mark.parametrize(
    ("config", "number", "said"),
    [
        ({"result_backend": "async-cache://databse"}, "E005", "Did you mean 'database'?"),
        (
            {"result_backend": "async-cache", "cache_backend": "databse"},
            "E005",
            "CELERY_CACHE_BACKEND",
        ),
        ({"result_backend": "async-cache://dummy"}, "E003", 'CACHES["dummy"] stores nothing'),
        ({"result_backend": "async-cache-redis"}, "E006", "async-cache-redis+redis://"),
        ({"result_backend": "async-cache-dbs"}, "E007", '"async-cache-dbs"'),
        ({"result_backend": "async-cache-dbs://x"}, "E007", '"async-cache-dbs"'),
    ],
)
def test_a_result_backend_that_cannot_be_had_is_named(
    celery_app: Callable[..., Any], config: dict[str, str], number: str, said: str
) -> None:
    celery_app(**config)
    assert said in messages()[number]


@pytest.mark.parametrize(
    "config",
    [
        {"result_backend": "async-cache-db"},
        {"result_backend": "async-cache://default"},
        {"result_backend": "async-cache", "cache_backend": "memcached://127.0.0.1:1/"},
        {"result_backend": "async-cache-redis+redis://127.0.0.1:1/0"},
        {"result_backend": "async-cache-redis", "redis_host": "redis.example"},
        {"result_backend": "redis://127.0.0.1:1/0", "cache_backend": "databse"},
        {},
    ],
)
def test_of_other_result_backends_nothing_is_said(
    celery_app: Callable[..., Any], config: dict[str, str]
) -> None:
    celery_app(**config)
    assert set(messages()) == {"W001"}  # of the cache "default", as without a result backend


def test_the_near_name_is_suggested(celery_app: Callable[..., Any]) -> None:
    celery_app(result_backend="async-cache-dbs")
    (found,) = [m for m in run_checks(tags=["async_cache"]) if str(m.id).endswith("results.E007")]
    assert found.hint == "Did you mean 'async-cache-db'?"


def test_calls_need_a_celery_app(celery_app: Callable[..., Any], settings: Any) -> None:
    settings.ASYNC_CACHE = {"DISPATCHER": "celery"}
    assert "W004" not in messages()  # the core says so
    settings.ASYNC_CACHE = {"DISPATCHER": "thread"}
    assert "async_task" in messages()["W004"]
    app = celery_app()
    assert "W004" not in messages()
    app.close()


def test_a_key_of_the_section_beside_it_is_told_where_it_belongs(settings: Any) -> None:
    settings.ASYNC_CACHE = {"CACHED": True}
    (found,) = [m for m in run_checks(tags=["async_cache"]) if m.id == "async_cache.E002"]
    assert found.hint == 'It belongs into a section: write ASYNC_CACHE["RESULTS"]["CACHED"].'
