"""Values to bytes and back: what goes inside a sealed entry.

``pickle``, the default, keeps every value type for type; its bytes are loaded only after the
entry's seal was checked. ``json`` is for values that other programs read, and refuses what JSON
would change. Any other name is the dotted path of an object with ``dumps`` and ``loads``.
"""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Callable
from typing import Any, Final

from django.utils.module_loading import import_string

from async_cache.entry import COMPRESSED, NEGATIVE, Header
from async_cache.exceptions import ConfigurationError, EntryRejected, UnstorableValue
from async_cache.serializers.base import (
    MAX_VALUE_SIZE,
    Payload,
    Serializer,
    check_size,
    type_name,
)
from async_cache.serializers.negatives import dump_negative, load_negative
from async_cache.serializers.pickled import PickleSerializer
from async_cache.serializers.strict_json import JsonSerializer

__all__ = [
    "MAX_VALUE_SIZE",
    "Payload",
    "Serializer",
    "dump_negative",
    "dump_value",
    "get_serializer",
    "load_negative",
    "load_value",
]

_CUSTOM: Final = 255

# Serializers are named by settings and classes, never by stored data; a program that makes up
# more names than this has a mistake.
_MAX_CUSTOM: Final = 128

_FEATURES: Final = COMPRESSED | NEGATIVE

# Bytes that are decompressed at a time: they become a thousand times as many at most.
_SLICE: Final = 1024

# What zlib must save to be worth its time at each read.
_WORTH: Final = 0.9


class _Custom(Serializer):
    codec = _CUSTOM

    def __init__(
        self, path: str, dumps: Callable[[Any], Any], loads: Callable[[bytes], Any]
    ) -> None:
        self.name = self.codec_name = path
        self._dumps = dumps
        self._loads = loads

    def dumps(self, value: object, limit: int) -> bytes:
        try:
            data = self._dumps(value)
        except UnstorableValue:
            raise
        except Exception as error:
            raise UnstorableValue(
                f"The serializer {self.name} cannot store a {type_name(type(value))}:"
                f" {type(error).__qualname__}. Return what it takes, or use another serializer."
            ) from error
        if not isinstance(data, bytes):
            raise UnstorableValue(
                f"The serializer {self.name} returned {type(data).__qualname__}, not bytes."
            )
        return data

    def loads(self, data: bytes) -> Any:
        return self._loads(data)


_builtin: Final[dict[str, Serializer]] = {
    "pickle": PickleSerializer(),
    "json": JsonSerializer(),
}
_by_codec: Final = {serializer.codec: serializer for serializer in _builtin.values()}
_custom: Final[dict[str, Serializer]] = {}


def get_serializer(name: str) -> Serializer:
    """Return the serializer that an option names; from then on its entries load here.

    Args:
        name: ``"pickle"``, ``"json"`` or the dotted path of a class or object with
            ``dumps(value) -> bytes`` and ``loads(bytes) -> value``.

    Raises:
        ConfigurationError: There is no such serializer.
    """
    found = _builtin.get(name) or _custom.get(name)
    if found is not None:
        return found
    hint = "use 'pickle', 'json' or the dotted path of an object with dumps and loads"
    try:
        target = import_string(name)
        target = target() if isinstance(target, type) else target
    except Exception as error:
        raise ConfigurationError(f"serializer {name!r} cannot be imported; {hint}.") from error
    dumps, loads = getattr(target, "dumps", None), getattr(target, "loads", None)
    if not callable(dumps) or not callable(loads):
        raise ConfigurationError(f"serializer {name!r} lacks dumps or loads; {hint}.")
    if len(_custom) >= _MAX_CUSTOM:
        raise ConfigurationError(
            f"serializer {name!r} is one more than {_MAX_CUSTOM}; name a few, and reuse them."
        )
    return _custom.setdefault(name, _Custom(name, dumps, loads))


def dump_value(
    value: object,
    serializer: Serializer,
    *,
    limit: int = MAX_VALUE_SIZE,
    compress_above: int | None = None,
) -> Payload:
    """Return a value's payload.

    Args:
        value: What a fetch returned.
        serializer: From `get_serializer`.
        limit: Cap in bytes, before compression.
        compress_above: Compress from this many bytes on, where that saves a tenth; None is never.

    Raises:
        UnstorableValue: It cannot be stored so that a hit equals it, or it is too large.
    """
    data = serializer.dumps(value, limit)
    check_size(len(data), limit, value)
    flags = 0
    if compress_above is not None and len(data) >= compress_above:
        smaller = zlib.compress(data, 1)
        if len(smaller) < len(data) * _WORTH:
            data, flags = smaller, COMPRESSED
    return Payload(data, flags, serializer.codec, serializer.codec_name)


def load_value(
    raw: bytes,
    header: Header,
    limit: int = MAX_VALUE_SIZE,
    *,
    _loads: Callable[[bytes], Any] = pickle.loads,
) -> Any:
    """Return the value of an entry that `entry.open_entry` has opened.

    Raises:
        EntryRejected: Its payload does not load here: another codec, a changed model, a class that
            is gone, or larger than ``limit``.
    """
    payload = raw[header.payload_at :]
    if len(payload) > limit:
        raise EntryRejected(f"a payload of {len(payload)} bytes, where {limit} are allowed")
    loads = _loads
    if header.codec or header.flags & _FEATURES:
        payload, loads = _unusual(payload, header, limit)
    try:
        return loads(payload)
    except EntryRejected:
        raise
    except Exception as error:
        # A class or module that is gone, a __setstate__ that fails: old data, not this caller's
        # error. The cause says what it was.
        raise EntryRejected(f"the payload does not load: {type(error).__qualname__}") from error


def _unusual(payload: bytes, header: Header, limit: int) -> tuple[bytes, Callable[[bytes], Any]]:
    if header.flags & NEGATIVE:
        raise ValueError("a negative entry holds no value: use load_negative")
    if header.flags & COMPRESSED:
        payload = _decompress(payload, limit)
    serializer = _by_codec.get(header.codec)
    if serializer is None and header.codec == _CUSTOM:
        serializer = _custom.get(header.codec_name or "")
    if serializer is None:
        raise EntryRejected(
            f"codec {header.codec} ({header.codec_name or 'built in'}) is not in use here"
        )
    return payload, serializer.loads


def _decompress(data: bytes, limit: int) -> bytes:
    # By small slices: what they unpack to is counted before there is much of it.
    stream, parts, size = zlib.decompressobj(), [], 0
    try:
        for at in range(0, len(data), _SLICE):
            parts.append(stream.decompress(data[at : at + _SLICE], limit - size + 1))
            size += len(parts[-1])
            if size > limit:
                parts.clear()  # the error's traceback would keep them
                raise EntryRejected(f"the payload decompresses to more than {limit} bytes")
    except zlib.error as error:
        raise EntryRejected("the payload does not decompress") from error
    if not stream.eof:
        raise EntryRejected("the payload is cut")
    return b"".join(parts)
