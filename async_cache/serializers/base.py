"""What the serializers share: their contract, the payload they make, the cap on its size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Final, NamedTuple

from async_cache.exceptions import UnstorableValue

__all__ = ["MAX_VALUE_SIZE", "Payload", "Serializer", "check_size", "type_name"]

MAX_VALUE_SIZE: Final = 16 * 1024 * 1024
"""Default cap in bytes of a value, before and after compression."""


class Payload(NamedTuple):
    """A value ready to be sealed; the last three go into the entry's header.

    Attributes:
        data: The bytes.
        flags: What was done to them.
        codec: Number of the serializer.
        codec_name: Its dotted path when it is not built in.
    """

    data: bytes
    flags: int
    codec: int
    codec_name: str | None = None


class Serializer(ABC):
    """Turns values into bytes and back.

    Attributes:
        name: What the ``serializer`` option says.
        codec: Its number in entries.
        codec_name: Its dotted path when it is not built in.
    """

    name: str
    codec: int
    codec_name: str | None = None

    @abstractmethod
    def dumps(self, value: object, limit: int) -> bytes:
        """Return the bytes of a value; `UnstorableValue` when it would not come back the same."""

    @abstractmethod
    def loads(self, data: bytes) -> Any:
        """Return the value of authentic bytes; any exception makes the entry a miss."""


def type_name(cls: type) -> str:
    """Return a type's name as people write it."""
    return (
        cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    )


def check_size(size: int, limit: int, value: object) -> None:
    """Raise `UnstorableValue` for a value of more than ``limit`` bytes."""
    if size > limit:
        raise UnstorableValue(
            f"A {type_name(type(value))} takes more than {limit} bytes: return less, in pages for"
            ' example, or raise ASYNC_CACHE["MAX_VALUE_SIZE"].'
        )
