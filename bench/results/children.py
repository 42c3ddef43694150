"""Processes beside the measured one, spoken to by lines."""

from __future__ import annotations

import subprocess
import sys
from types import TracebackType
from typing import Final, Self

__all__ = ["Child"]

SECONDS: Final = 30.0


class Child:
    """A ``python -m bench.results.child`` with the settings of this process.

    Args:
        *arguments: What it is to do.
    """

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.results.child", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def say(self, line: str) -> None:
        """Send a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def hear(self) -> str:
        """Return its next line.

        Raises:
            RuntimeError: It has ended instead.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process of the scene ended with {self._process.wait(SECONDS)}")
        return line.strip()

    def close(self) -> None:
        """Let it end; it reads no further line."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(SECONDS)
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
