"""The cache keys of records, groups and names. Pure."""

from __future__ import annotations

import re
from base64 import b32encode
from hashlib import blake2b
from typing import Final

__all__ = ["Names"]

_LONGEST: Final = 100
_SAFE: Final = re.compile(r"[A-Za-z0-9_-]+([.][A-Za-z0-9_-]+)*")
_ODD: Final = re.compile(r"[^A-Za-z0-9_]+")


def _segment(text: str) -> str:
    """Return a text that is safe and short, else its start, two dots and a hash of all of it.

    Safe text never holds two dots, so what is shortened never equals what is not.
    """
    if len(text) <= _LONGEST and _SAFE.fullmatch(text):
        return text
    digest = b32encode(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=15).digest())
    return f"{_ODD.sub('.', text[:40]).strip('.')}..{digest.decode().lower()}"


class Names:
    """Makes cache keys. No job's key begins like one of them.

    Args:
        prefix: ``KEY_PREFIX`` of the settings.
    """

    def __init__(self, prefix: str) -> None:
        self.records = f"{prefix}:-r:"
        self._groups = f"{prefix}:-g:"
        self._names = f"{prefix}:-n:"
        self._slots = f"{prefix}:-s:"

    def tail(self, task_id: str) -> str:
        """Return what stands for a task's id in keys."""
        return _segment(task_id)

    def record(self, tail: str) -> str:
        """Return the key of a task's record."""
        return self.records + tail

    def group(self, group_id: str) -> str:
        """Return the key of a group."""
        return self._groups + _segment(group_id)

    def name(self, name: str) -> str:
        """Return the key that leads from a task's name to its id."""
        return self._names + _segment(name)

    def slot(self, generation: str, number: int) -> str:
        """Return the key of one member's slot in a group."""
        return f"{self._slots}{generation}:{number}"

    def hint(self, generation: str) -> str:
        """Return the key that tells about how many slots are taken."""
        return f"{self._slots}{generation}"
