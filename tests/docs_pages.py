"""Read the documentation's pages as programs, and run the Python of one of them.

A fenced block is a step of its page. What the reader does not see stands in HTML comments:

``<!-- test: word name=value -->``
    How the test treats the block that follows, or a step of its own.
``<!-- test: beat -->``
    The block needs django-celery-beat, which does not go with every Django.
``<!-- run ... -->``
    Python that the test runs besides: what the page takes for granted, and what must hold.

``python -m tests.docs_pages PAGE`` runs the Python blocks of a page in order, in one module.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MODULE = "docs_page"
"""The module in which the blocks of a page run; its jobs can be found by name."""

_FENCE = re.compile(r"(`{3,})(?:\{([\w-]+)\} *)?([\w-]*)")
_OPTION = re.compile(r":([\w-]+): *(.*)")


@dataclass(frozen=True)
class Step:
    """A block of a page, or a comment that is a step of its own.

    Attributes:
        kind: The block's language; ``"run"`` for hidden Python, ``"mark"`` for a comment alone.
        text: What stands in it.
        line: Its place in the page.
        caption: The file that the block shows, if the reader is told one.
        marks: Words and pairs of the comment before it.
    """

    kind: str
    text: str
    line: int
    caption: str = ""
    marks: Mapping[str, str] = field(default_factory=dict)


def steps(page: Path) -> list[Step]:
    """Return the steps of a page in order."""
    return list(_steps(page.read_text().splitlines()))


def _steps(lines: list[str]) -> Iterator[Step]:
    marks: dict[str, str] | None = None
    at = marked_at = 0
    while at < len(lines):
        line = lines[at]
        fence = _FENCE.fullmatch(line.strip())
        if line.startswith("<!--"):
            end = next(i for i in range(at, len(lines)) if lines[i].rstrip().endswith("-->"))
            inside = "\n".join(lines[at : end + 1])[4:].rstrip()[:-3]
            word, _, rest = inside.strip().partition("\n" if end > at else " ")
            if word == "run":
                yield Step("run", rest, at + 2)
            elif word == "test:":
                if marks is not None:
                    yield Step("mark", "", marked_at, marks=marks)
                marks = {n: v for n, _, v in (pair.partition("=") for pair in rest.split())}
                marked_at = at + 1
            at = end + 1
        elif fence:
            end = next(i for i in range(at + 1, len(lines)) if lines[i].strip() == fence[1])
            body = lines[at + 1 : end]
            options: dict[str, str] = {}
            start = at + 2
            if fence[2]:
                while body and (option := _OPTION.fullmatch(body[0].strip())):
                    options[option[1]] = option[2]
                    body, start = body[1:], start + 1
            kind = fence[3] if fence[2] in (None, "code-block") else fence[2]
            indent = len(line) - len(line.lstrip())
            text = "\n".join(part[indent:] for part in body).strip("\n") + "\n"
            yield Step(kind, text, start, options.get("caption", "").strip("`"), marks or {})
            marks, at = None, end + 1
        else:
            if line.strip() and marks is not None:
                yield Step("mark", "", marked_at, marks=marks)
                marks = None
            at += 1
    if marks is not None:
        yield Step("mark", "", marked_at, marks=marks)


def table_rows(page: Path, heading: str) -> list[list[str]]:
    """Return the cells of the first Markdown table below a heading, without its head."""
    lines = iter(page.read_text().splitlines())
    next(line for line in lines if line.lstrip("#").strip() == heading and line.startswith("#"))
    rows: list[list[str]] = []
    for line in lines:
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
            rows.append([cell.strip().replace("\\|", "|") for cell in cells])
        elif rows or line.startswith("#"):
            break
    return rows[2:]


def run_page(page: Path) -> int:
    """Run a page's Python in order; return how many blocks were run."""
    from django.conf import settings

    module = sys.modules.setdefault(MODULE, ModuleType(MODULE))
    done = 0
    for step in steps(page):
        if step.kind not in ("python", "run") or "skip" in step.marks:
            continue
        if "beat" in step.marks and not settings.BEAT_IN_DATABASE:
            continue
        # Line numbers of tracebacks are those of the page.
        source = "\n" * (step.line - 1) + step.text
        code = compile(source, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if "settings" in step.marks:
            _check_settings(code)
        elif code.co_flags & inspect.CO_COROUTINE:
            asyncio.run(eval(code, module.__dict__))
        else:
            exec(code, module.__dict__)
        done += 1
    return done


def _check_settings(code: CodeType) -> None:
    """Put a block of settings in force, and let no system check call them wrong."""
    from django.conf import settings
    from django.core import checks
    from django.test import override_settings

    installed = set(settings.INSTALLED_APPS)
    given: dict[str, Any] = {
        "INSTALLED_APPS": list(settings.INSTALLED_APPS),
        "SECRET_KEY": settings.SECRET_KEY,
    }
    exec(code, given)
    apps = given["INSTALLED_APPS"]
    if ... in apps:  # "what you have already"
        given["INSTALLED_APPS"] = [*settings.INSTALLED_APPS, *(set(apps) - {...} - installed)]
    with override_settings(**{name: value for name, value in given.items() if name.isupper()}):
        wrong = [m for m in checks.run_checks(tags=["async_cache"]) if m.level >= checks.ERROR]
    assert not wrong, wrong


class Response:
    """What `requests` of a page returns: nothing of a page goes to the network."""

    status_code = 200

    def __init__(self, url: str) -> None:
        self.url = url
        self.headers = {"ETag": "1"}

    def json(self) -> dict[str, str]:
        return {"url": self.url}

    def raise_for_status(self) -> None:
        return None


def _requests() -> ModuleType:
    module = ModuleType("requests")
    module.get = lambda url, **_: Response(url)  # type: ignore[attr-defined]
    return module


def main(page: Path) -> None:
    """Run a page with a database of its own."""
    import django
    from django.test.runner import DiscoverRunner
    from django.test.utils import setup_test_environment

    # What a page calls shop.jobs is its own module.
    sys.modules[MODULE] = sys.modules["shop.jobs"] = ModuleType(MODULE)
    sys.modules["shop"] = ModuleType("shop")
    sys.modules["requests"] = _requests()
    django.setup()
    setup_test_environment()
    runner = DiscoverRunner(verbosity=0, interactive=False)
    databases = runner.setup_databases(aliases={"default"})
    try:
        print(run_page(page))
    finally:
        runner.teardown_databases(databases)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
