"""Kill a child of a worker at one point of its code, once.

A worker imports this module where ``CELERY_IMPORTS`` names it. ``KILL_AT`` is the dotted path of a
class and ``KILL_CALL`` one of its methods; the child that makes the call number ``KILL_NUMBER`` of
it, counted over all processes in the file ``KILL_FILE``, is killed as it begins.
"""

from __future__ import annotations

import functools
import os
import signal
from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils.module_loading import import_string


def arm(path: str, name: str, number: int, file: Path) -> None:
    """Let that call of a method kill its process."""
    owner = import_string(path)
    original = getattr(owner, name)

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        with file.open("a") as calls:
            calls.write(".")
        if file.stat().st_size == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, call)


given: Any = settings
arm(given.KILL_AT, given.KILL_CALL, given.KILL_NUMBER, Path(given.KILL_FILE))
