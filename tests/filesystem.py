"""Kombu's broker of files, with messages that are whole when they are seen.

Kombu writes a message under the name that readers look for: one that comes at that moment takes an
empty file, and the message is lost.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from time import monotonic_ns
from typing import Any

from kombu.transport import filesystem
from kombu.utils.encoding import str_to_bytes
from kombu.utils.json import dumps

__all__ = ["Channel", "Transport"]


class Channel(filesystem.Channel):
    """Writes a message aside, then gives it its name."""

    def _put(self, queue: str, payload: Any, **kwargs: Any) -> None:  # type: ignore[override]
        folder = Path(os.fspath(self.data_folder_out))
        name = f"{monotonic_ns() // 1_000_000}_{uuid.uuid4()}"
        part = folder / f"{name}.part"
        part.write_bytes(str_to_bytes(dumps(payload)))
        part.rename(folder / f"{name}.{queue}.msg")


class Transport(filesystem.Transport):
    """Kombu's own with that channel."""

    Channel = Channel
