"""Run one fuzzer with atheris, or say what to do: ``python -m fuzz entries``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

FUZZERS = ("entries", "messages", "keys")
CORPUS = Path(__file__).with_name("corpus")
FOUND = CORPUS.parent.parent / ".fuzz"
"""What leads to code not seen before, and what has broken a promise; not kept with the sources."""


def main() -> None:
    """Feed a check until it raises or the time is over."""
    name, *options = sys.argv[1:] or [""]
    if name not in FUZZERS:
        sys.exit(f"Name a fuzzer: {', '.join(FUZZERS)}.")
    try:
        atheris: Any = importlib.import_module("atheris")
    except ImportError as error:
        sys.exit(
            f"atheris cannot be imported here ({error}). It has wheels for Linux and CPython 3.11 "
            "to 3.14: choose one of these with `make fuzz PYTHON=python3.13`."
        )
    with atheris.instrument_imports(include=["async_cache"]):
        module = importlib.import_module(f"fuzz.{name}")
    found = FOUND / name
    found.mkdir(parents=True, exist_ok=True)
    given = [f"fuzz.{name}", "-max_len=4096", f"-artifact_prefix={FOUND}/{name}-", *options]
    atheris.Setup([*given, str(found), str(CORPUS / name)], module.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
