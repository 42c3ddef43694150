"""The section of the settings, and what ``manage.py check`` says of it."""

from __future__ import annotations

from typing import Any

import pytest
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
