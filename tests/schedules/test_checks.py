"""What `manage.py check` says about schedules."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from django.core import checks

from async_cache.jobs import registry
from async_cache.schedules import checks as module
from tests.schedules.support import build

NAME = f"{__name__}.Rates"


@pytest.fixture(autouse=True)
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setattr(registry, "_jobs", {})
    return partial(build, __name__)


def found() -> dict[str, str]:
    prefix = "async_cache_schedules."
    told = checks.run_checks(tags=["async_cache"])
    return {m.id.removeprefix(prefix): m.msg for m in told if m.id and m.id.startswith(prefix)}


def test_the_section(settings: Any) -> None:
    settings.ASYNC_CACHE = {"SCHEDULES": {"SPRED": 0.5}}
    assert "'SPRED'" in found()["E001"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"refresh_every": 5, "refresh_schedule": "* * * * *"}, "two schedules"),
        ({"refresh_schedule": "61 * * * *"}, "no crontab"),
    ],
)
def test_a_schedule_that_cannot_be(make: Callable[..., Any], given: Any, words: str) -> None:
    make("Good", refresh_every=5)
    assert not found()
    make(**given)
    assert NAME in found()["E002"]
    assert words in found()["E002"]


def test_a_tenants_key_function(make: Callable[..., Any], settings: Any) -> None:
    make(keep_warm=60)
    make("Cold")
    assert not found()
    config = {**settings.CACHES["default"], "KEY_FUNCTION": f"{__name__}.make_key"}
    settings.CACHES = {**settings.CACHES, "default": config}
    assert NAME in found()["W001"]
    assert "Cold" not in found()["W001"]


def make_key(key: str, prefix: str, version: int) -> str:
    return f"tenant:{prefix}:{version}:{key}"


def test_the_reference_names_them_all() -> None:
    from tests.docs_pages import ROOT, table_rows

    rows = table_rows(ROOT / "docs" / "reference" / "checks.md", "Messages of schedules")
    named = {row[0].strip("`") for row in rows}
    text = module.__doc__ or ""
    assert named == {line.split()[0] for line in text.splitlines() if re.match(r"[EW]\d{3} ", line)}
