"""The distribution is what setup.cfg says, whole, and nothing else says what it is."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from configparser import ConfigParser
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "async_cache"
INPUTS = (
    "setup.cfg",
    "setup.py",
    "pyproject.toml",
    "MANIFEST.in",
    "LICENSE",
    "README.md",
    "CHANGELOG.md",
)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist, and the wheel from the sdist, away from the work tree."""
    source = tmp_path_factory.mktemp("source")
    for name in INPUTS:
        shutil.copy(ROOT / name, source)
    shutil.copytree(PACKAGE, source / "async_cache", ignore=shutil.ignore_patterns("__pycache__"))
    target = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), "."]
    built = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return target


@pytest.fixture(scope="module")
def wheel(dist: Path) -> zipfile.ZipFile:
    """Open the wheel."""
    (path,) = dist.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    """Parse the wheel's metadata."""
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return Parser().parsestr(wheel.read(name).decode())


def package_files() -> set[str]:
    """List what belongs to the package in the work tree."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_pyproject_says_nothing_of_the_distribution() -> None:
    """A [project] table or a [tool.setuptools] would compete with setup.cfg."""
    content = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "project" not in content
    assert "setuptools" not in content.get("tool", {})
    assert content["build-system"]["build-backend"] == "setuptools.build_meta"


def test_setup_py_says_nothing_either() -> None:
    """It calls setup() without arguments."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    (call,) = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert ast.unparse(call) == "setup()"


def test_metadata(metadata: Message) -> None:
    """The fields of setup.cfg arrive in the wheel."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert metadata["Name"] == config["metadata"]["name"] == "django-async-cache"
    assert metadata["Version"] == config["metadata"]["version"]
    assert metadata["Summary"] == config["metadata"]["description"]
    assert metadata["Requires-Python"] == ">=3.11"
    assert "BSD-3-Clause" in (metadata["License"], metadata["License-Expression"])
    assert metadata["License-File"] == "LICENSE"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert str(metadata.get_payload()).strip() == (ROOT / "README.md").read_text().strip()
    assert set(metadata.get_all("Classifier", [])) == set(
        config["metadata"]["classifiers"].strip().splitlines()
    )


def test_requirements(metadata: Message) -> None:
    """Celery comes with its Redis transport; Django has no upper bound."""
    required = {
        line.replace(" ", "") for line in metadata.get_all("Requires-Dist", []) if ";" not in line
    }
    assert required == {"Django>=5.2", "celery[redis]<6,>=5.5", "django-redis>=6"}


def test_extras(metadata: Message) -> None:
    """Optional packages are extras with a lower bound: pip must not fall back to an old one."""
    extras = {
        line.split(";")[0].strip()
        for line in metadata.get_all("Requires-Dist", [])
        if "extra ==" in line
    }
    assert {"hiredis>=3", "django-celery-beat>=2.9"} <= extras
    assert all(">=" in requirement for requirement in extras)


def test_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    """Templates, scripts, migrations and py.typed are in; tests and examples are not."""
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == package_files()
    assert "async_cache/py.typed" in held


def test_sdist_holds_what_it_is_built_from(dist: Path) -> None:
    """Licence, readme and changelog travel along."""
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert set(INPUTS) - {"MANIFEST.in"} <= held
    assert package_files() <= held


def test_groups_can_be_installed() -> None:
    """The Makefile names only groups that exist, each requirement with a lower bound."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    assert {"test", "lint", "docs", "bench", "demo"} <= set(groups)
    unbound = [line for lines in groups.values() for line in lines if ">=" not in line]
    assert not unbound
