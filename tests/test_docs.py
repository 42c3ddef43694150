"""The documentation does what it says: its programs run, its tables name what exists."""

from __future__ import annotations

import json
import os
import pkgutil
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from django.utils.module_loading import import_string

import async_cache
from async_cache import checks, conf, dispatchers, exceptions, options, signals
from async_cache.management.commands import async_cache as command
from async_cache.management.subcommands import subcommands
from async_cache.stores.base import Store
from tests.conftest import flush, next_database
from tests.docs_pages import MODULE, ROOT, Step, run_page, steps, table_rows
from tests.servers import Process, free_port
from tests.workers import PATIENCE

DOCS = ROOT / "docs"
TUTORIAL = DOCS / "tutorial" / "index.md"
REFERENCE = DOCS / "reference"
SNIPPETS = [ROOT / "README.md", DOCS / "index.md", *sorted((DOCS / "how-to").glob("*.md"))]
SNIPPETS += [REFERENCE / "jobs.md", REFERENCE / "queryset-jobs.md", REFERENCE / "decorator.md"]
JOB = ("weather.jobs.Weather", "Oslo")


class Reader:
    """Follows the tutorial in an empty folder, to the letter."""

    def __init__(self, folder: Path, cache: str, broker: str) -> None:
        self.folder = folder / "project"
        self.folder.mkdir()
        self.port = free_port()
        self.logs = folder
        self.running: dict[str, Process] = {}
        self.pages: dict[str, str] = {}
        self.environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(self._programs(folder)), os.environ["PATH"]]),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "CACHE_URL": cache,
            "BROKER_URL": broker,
        }
        self.environment.pop("DJANGO_SETTINGS_MODULE", None)

    @staticmethod
    def _programs(folder: Path) -> Path:
        """Put the programs that the tutorial installs on the path: those of this interpreter."""
        programs = folder / "bin"
        programs.mkdir()
        modules = {"python": "", "django-admin": " -m django", "celery": " -m celery"}
        for name, module in modules.items():
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)}{module} "$@"\n')
            program.chmod(0o755)
        return programs

    def follow(self, step: Step) -> None:
        """Do what one step says, and see what it promises."""
        marks = step.marks
        if "skip" in marks:
            return
        if step.kind == "python":
            self.write(step)
        elif step.kind == "console" and "background" in marks:
            self.start(step)
        elif step.kind == "console":
            self.run(step)
        elif step.kind == "text" and "get" in marks:
            self.visit(step)
        elif step.kind == "mark" and "stop" in marks:
            self.running.pop(marks["stop"]).stop()
        else:
            pytest.fail(f"line {step.line}: the test does not know what to do with {step}")

    def write(self, step: Step) -> None:
        assert step.caption, f"line {step.line}: no file is named"
        path = self.folder / step.caption
        if "append" in step.marks:
            assert path.exists(), f"line {step.line}: nothing to append to"
            path.write_text(f"{path.read_text()}\n{step.text}")
        else:
            path.write_text(step.text)

    def run(self, step: Step) -> None:
        if "await" in step.marks:
            wanted = step.marks["await"]
            eventually(lambda: self.explain()["status"] == wanted, f"a {wanted} value")
        for line, expected in commands(step):
            output = self.shell(line)
            if "lines" in step.marks:
                names = step.marks["lines"].split(",")
                output = "".join(
                    part for part in output.splitlines(True) if part.split()[0] in names
                )
            assert output == expected, f"line {step.line}: {line}"

    def shell(self, line: str) -> str:
        done = subprocess.run(
            line,
            shell=True,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    def explain(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(
            self.shell(f"python manage.py async_cache explain {' '.join(JOB)} --json")
        )
        return told

    def start(self, step: Step) -> None:
        ((line, _),) = commands(step)
        if line.endswith("runserver"):
            line += f" 127.0.0.1:{self.port}"  # the usual port may be taken
        name = step.marks["background"]
        process = Process(
            ["/bin/sh", "-c", f"exec {line}"],
            self.logs / f"{name}.log",
            grace=5,
            env=self.environment,
            cwd=self.folder,
        )
        self.running[name] = process
        until = step.marks["until"]
        process.wait_until(lambda: until in process.output(), 60, line)

    def visit(self, step: Step) -> None:
        marks = step.marks
        if "await-new" in marks:
            old = self.pages[marks["await-new"]]
            eventually(lambda: self.get(marks["get"])[0] != old, "a new value")
        value, seconds, text = self.get_timed(marks["get"])
        assert shape(text) == shape(step.text), f"line {step.line}"
        if "slower" in marks:
            assert seconds >= float(marks["slower"]), f"line {step.line}"
        if "faster" in marks:
            assert seconds < float(marks["faster"]), f"line {step.line}"
        if "same" in marks:
            assert value == self.pages[marks["same"]], f"line {step.line}"
        if "as" in marks:
            assert value not in self.pages.values(), f"line {step.line}"
            self.pages[marks["as"]] = value

    def get(self, path: str) -> tuple[str, str]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            first, second = answer.read().decode().splitlines()
        return first, second

    def get_timed(self, path: str) -> tuple[str, float, str]:
        first, second = self.get(path)
        seconds = float(second.split()[-2])
        return first, seconds, f"{first}\n{second}\n"

    def stop(self) -> None:
        for process in self.running.values():
            process.stop()


def commands(step: Step) -> list[tuple[str, str]]:
    """Return the commands of a console block, each with what it prints."""
    found: list[tuple[str, str]] = []
    for line in step.text.splitlines(True):
        if line.startswith("$ "):
            found.append((line[2:].strip(), ""))
        else:
            found[-1] = (found[-1][0], found[-1][1] + line)
    return found


def shape(text: str) -> str:
    return re.sub(r"\d+", "0", text)


def eventually(holds: Any, what: str, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"{what} has not come"
        time.sleep(0.1)


@pytest.fixture
def reader(tmp_path: Path, redis_url: str) -> Iterator[Reader]:
    broker = next_database(redis_url)
    flush(broker)
    made = Reader(tmp_path, redis_url, broker)
    with ExitStack() as stack:
        stack.callback(made.stop)
        yield made


@pytest.mark.integration
@pytest.mark.slow
def test_the_tutorial_does_what_it_says(reader: Reader) -> None:
    followed = steps(TUTORIAL)
    assert len(followed) > 20
    for step in followed:
        reader.follow(step)
    assert set(reader.pages) == {"first", "second", "third", "fourth", "fifth"}


# --- snippets -------------------------------------------------------------------------------------


def page_environment(url: str, folder: Path) -> Mapping[str, str]:
    given = {
        "CACHES": {
            "default": {
                "BACKEND": "django_redis.cache.RedisCache",
                "LOCATION": url,
                "OPTIONS": {"SOCKET_CONNECT_TIMEOUT": 1, "SOCKET_TIMEOUT": 1},
            }
        },
        "ASYNC_CACHE": {"DISPATCHER": "immediate", "JOB_MODULES": [MODULE], **PATIENCE},
    }
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "TEST_DATABASE": "",  # a file of its own, whatever the suite runs on
        "TEST_DIRECTORY": str(folder),
        "TEST_SETTINGS": json.dumps(given),
    }


@pytest.mark.integration
@pytest.mark.parametrize("page", SNIPPETS, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_python_of_a_page_runs(page: Path, redis_url: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.docs_pages", str(page)],
        cwd=ROOT,
        env=page_environment(redis_url, tmp_path),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert int(done.stdout.split()[-1]) > 0


def test_a_snippet_that_fails_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n<!-- run\nx = 1\n-->\n\n```python\nassert x == 2\n```\n")
    with pytest.raises(AssertionError):
        run_page(page)


# --- tables ---------------------------------------------------------------------------------------


def code(cell: str) -> str:
    return cell.strip("`")


def test_the_table_of_options_names_them_all() -> None:
    rows = table_rows(REFERENCE / "options.md", "Options")
    assert [code(row[0]) for row in rows] == list(options.OPTIONS)
    for name, default, *_ in rows:
        shown = eval(code(default))
        assert shown == options.DEFAULTS[code(name)], name


@pytest.mark.shipped_timeouts
def test_the_table_of_settings_names_them_all() -> None:
    rows = table_rows(REFERENCE / "settings.md", "Keys")
    names = {name.upper() for name in conf.Settings.__dataclass_fields__} - {"SECTIONS"}
    assert {code(row[0]) for row in rows} == names
    plain = {name: getattr(conf.Settings(), name.lower()) for name in names}
    for row in rows:
        if row[1] and code(row[0]) not in {"DEFAULTS", "JOBS"}:
            assert eval(code(row[1])) == plain[code(row[0])], row[0]
    # The table is what the setting takes, not only what the dataclass has.
    given: dict[str, object] = {
        code(row[0]): {} if code(row[0]) in {"DEFAULTS", "JOBS"} else ... for row in rows
    }
    _, problems = conf.inspect_setting(given)
    assert not [problem for problem in problems if problem.kind == "unknown_key"]


def test_the_table_of_checks_names_them_all() -> None:
    table = {code(row[0]) for row in table_rows(REFERENCE / "checks.md", "Messages")}
    source = "".join(
        path.read_text()
        for path in (ROOT / "async_cache" / "checks").glob("*.py")
        if path.name != "__init__.py"
    )
    known = set(re.findall(r'"(?:async_cache\.)?([EWI]\d{3})"', source))
    assert table == known
    listed = re.findall(r"^([EWI]\d{3})\b", checks.__doc__ or "", re.MULTILINE)
    assert table == set(listed)


def test_the_table_of_signals_names_them_all() -> None:
    known = {
        name for name in vars(signals) if isinstance(vars(signals)[name], signals.Announcement)
    }
    table = re.findall(r"^(\w+) {2,}``", signals.__doc__ or "", re.MULTILINE)
    assert set(table) == known
    assert "automodule:: async_cache.signals" in (REFERENCE / "signals.md").read_text()


def test_every_error_has_its_place_in_the_reference() -> None:
    page = (REFERENCE / "errors.md").read_text()
    assert "automodule:: async_cache.exceptions" in page
    for name in exceptions.__all__:
        assert f"autoexception:: async_cache.exceptions.{name}" in page, name


def test_the_reference_of_the_command_names_its_subcommands() -> None:
    assert command.Command.help
    text = (REFERENCE / "command.md").read_text()
    assert set(re.findall(r"^## `(\w+)`", text, re.MULTILINE)) == set(subcommands())


def test_the_reference_names_all_that_the_package_exports() -> None:
    text = "".join(path.read_text() for path in REFERENCE.glob("*.md"))
    missing = {name for name in async_cache.__all__ if not re.search(rf"\b{name}\b", text)}
    assert not missing


def test_the_reference_names_the_dispatchers() -> None:
    rows = table_rows(REFERENCE / "stores-and-dispatchers.md", "Dispatchers")
    assert {code(row[0]) for row in rows} == set(dispatchers.DISPATCHERS)


def test_what_the_reference_is_made_from_exists() -> None:
    directive = re.compile(r"^\.\. auto\w+:: ([\w.]+)", re.MULTILINE)
    for path in REFERENCE.glob("*.md"):
        for name in directive.findall(path.read_text()):
            pkgutil.resolve_name(name)
    for row in table_rows(REFERENCE / "stores-and-dispatchers.md", "Stores"):
        assert issubclass(import_string(code(row[1])), Store)


def test_no_page_names_a_path_of_a_machine() -> None:
    for path in [ROOT / "README.md", *DOCS.rglob("*.md")]:
        assert not re.search(r"/(?:tmp|home|root|work)/", path.read_text()), path
