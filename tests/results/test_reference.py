"""The reference of results names all that there is."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest

import async_cache.results
from async_cache.results import backends, checks, conf, exceptions, managers, models, signals, urls
from async_cache.results.models import TaskResult
from async_cache.signals import Announcement
from tests.docs_pages import ROOT, table_rows

REFERENCE = ROOT / "docs" / "reference"
PAGES = [REFERENCE / "results.md", REFERENCE / "result-backends.md"]
TEXT = "".join(page.read_text() for page in PAGES)


def code(cell: str) -> str:
    return cell.strip("`")


@pytest.mark.parametrize(
    "module",
    [async_cache.results, backends, exceptions, managers, models],
    ids=lambda m: m.__name__,
)
def test_every_public_name_has_its_place(module: ModuleType) -> None:
    internal = {"GROUP_RULES", "TASK_RULES"}
    missing = {name for name in module.__all__ if not re.search(rf"\b{name}\b", TEXT)}
    assert missing <= internal


def test_what_the_pages_are_made_from_exists() -> None:
    names = re.findall(r"^\.\. auto\w+:: ([\w.]+)", TEXT, re.MULTILINE)
    assert len(names) > 30
    for name in names:
        pkgutil.resolve_name(name)


@pytest.mark.shipped_timeouts
def test_the_table_of_settings_names_them_all() -> None:
    rows = table_rows(PAGES[0], "Settings")
    plain = conf.ResultsSettings()
    assert {code(row[0]).lower() for row in rows} == set(plain.__dataclass_fields__)
    for row in rows:
        default = getattr(plain, code(row[0]).lower())
        shown = eval(code(row[1]))
        assert shown == (dict(default) if isinstance(default, Mapping) else default), row[0]


def test_the_table_of_checks_names_them_all() -> None:
    table = {code(row[0]) for row in table_rows(REFERENCE / "checks.md", "Messages of results")}
    told = set(re.findall(r"^([EWI]\d{3})  ", checks.__doc__ or "", re.MULTILINE))
    modules = Path(str(checks.__file__)).parent.glob("*checks.py")
    source = "".join(path.read_text() for path in modules)
    assert table == told >= set(re.findall(r'"async_cache_results\.([EWI]\d{3})"', source))


def test_the_signals_are_listed() -> None:
    known = {name for name, value in vars(signals).items() if isinstance(value, Announcement)}
    listed = set(re.findall(r"^(\w+) {2,}``", signals.__doc__ or "", re.MULTILINE))
    assert listed == known
    assert "automodule:: async_cache.results.signals" in TEXT


def test_the_fields_of_a_row_are_listed() -> None:
    listed = set()
    for cell, _meaning in table_rows(PAGES[1], "Models"):
        listed |= set(re.findall(r"`(\w+)`", cell))
    assert listed == {field.name for field in TaskResult._meta.concrete_fields} - {"id"}


def test_the_names_of_the_urls_are_listed() -> None:
    for pattern in urls.urlpatterns:
        assert f"`{pattern.name}`" in TEXT
