"""Make the virtual environment and install dependency groups into it.

    python3 scripts/bootstrap.py .venv              the package itself, editable
    python3 scripts/bootstrap.py .venv test lint    and these groups of pyproject.toml

Only the standard library. Running it again brings an environment up to date; one whose Python is
gone or too old is made anew.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
PIP = "pip>=25.1"  # the first that knows dependency groups


def run(*command: str) -> None:
    """Run a command; end with its exit code when it fails."""
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    if code:
        sys.exit(f"failed ({code}): {' '.join(command)}")


def usable(venv: Path) -> bool:
    """Whether an environment is there and its Python runs and is new enough."""
    python = venv / "bin" / "python"
    check = f"import sys, pip; sys.exit(sys.version_info < {OLDEST})"
    try:
        found = subprocess.run([python, "-c", check], capture_output=True, check=False)
    except OSError:
        return False
    return found.returncode == 0


def ensure_venv_module() -> None:
    """Debian splits ``venv`` off its Python: install it as root, else say what to install."""
    if importlib.util.find_spec("ensurepip") and importlib.util.find_spec("venv"):
        return
    package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
    if os.geteuid() == 0 and shutil.which("apt-get"):
        run("apt-get", "update", "-qq")
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", package)
    else:
        sys.exit(f"{sys.executable} cannot make virtual environments; install {package}")


def create(venv: Path, python: str = sys.executable) -> None:
    """Make the environment unless there is one that works."""
    if usable(venv):
        return
    if python == sys.executable:
        ensure_venv_module()
    run(python, "-m", "venv", "--clear", str(venv))
    run(str(venv / "bin" / "python"), "-m", "pip", "install", "-qq", "--upgrade", PIP)


def install(venv: Path, groups: Sequence[str], extra: Sequence[str] = ()) -> None:
    """Install the package, editable, with dependency groups and further requirements."""
    options = [f"--group={group}" for group in groups]
    pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "-qq"]
    run(*pip, "--upgrade", PIP)
    run(*pip, "--editable", str(ROOT), *options, *extra)


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("venv", type=Path)
    parser.add_argument("groups", nargs="*")
    options = parser.parse_args()
    if sys.version_info < OLDEST:
        sys.exit(f"Python {'.'.join(map(str, OLDEST))} or later is needed, this is {sys.version}")
    create(options.venv)
    install(options.venv, options.groups)


if __name__ == "__main__":
    main()
