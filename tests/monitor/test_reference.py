"""The reference of the monitor names all that there is."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

from async_cache import monitor
from async_cache.monitor import checks, conf, models
from tests.docs_pages import ROOT, table_rows

REFERENCE = ROOT / "docs" / "reference"
PAGE = REFERENCE / "monitor.md"


def code(cell: str) -> str:
    return cell.strip("`")


def test_every_public_name_has_its_place() -> None:
    text = PAGE.read_text()
    for name in (*monitor.__all__, *models.__all__):
        assert re.search(rf"\b{name}\b", text), name
    for name in re.findall(r"^\.\. auto\w+:: ([\w.]+)", text, re.MULTILINE):
        pkgutil.resolve_name(name)


def test_the_table_of_settings_names_them_all() -> None:
    rows = table_rows(PAGE, "Settings")
    plain = conf.MonitorSettings()
    assert {code(row[0]).lower() for row in rows} == set(plain.__dataclass_fields__)
    for row in rows:
        assert eval(code(row[1])) == getattr(plain, code(row[0]).lower()), row[0]


def test_the_table_of_checks_names_them_all() -> None:
    table = {code(row[0]) for row in table_rows(REFERENCE / "checks.md", "Messages of the monitor")}
    source = Path(str(checks.__file__)).read_text()
    assert table == set(re.findall(r'"async_cache_monitor\.([EWI]\d{3})"', source))
