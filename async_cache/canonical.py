"""Turn an argument into bytes that name it: one value, one form, in every process.

The form of a value is a type tag and a body that ends itself, so that no two values of different
types, and no two different values of one type, share a form. What has no form is refused with an
error that names the argument; nothing falls back on ``str()``, ``repr()`` or ``hash()``.

What counts as one value:

- ``1``, ``"1"``, ``True`` and ``1.0`` are four, inside containers too. ``0.0`` and ``-0.0`` are
  two, as are ``Decimal("1.0")`` and ``Decimal("1.00")``, since a fetch can tell them apart. Every
  nan is one.
- Dicts, sets and frozensets have no order. Lists and tuples have one.
- An aware datetime is its wall time and its zone: the name of a ``ZoneInfo``, else the offset. One
  instant in two zones is two values; ``timezone.utc`` and ``ZoneInfo("UTC")`` are one zone.
- An enum member is its class and name, whatever else it inherits. A frozen dataclass and a named
  tuple are their class and fields.
- An instance of a subclass of str, int, float, bytes, datetime and the like is the plain value.
- An object whose class has a method ``__cache_key__`` is its class and what that method returns.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag
from functools import singledispatch
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

from async_cache.exceptions import UnkeyableArgument

__all__ = [
    "MAX_DEPTH",
    "MAX_ITEMS",
    "Refusal",
    "Tagged",
    "canonical",
    "class_path",
    "encode_argument",
    "plain_type",
    "reduce_argument",
    "zone_of",
]

MAX_DEPTH: Final = 64
MAX_ITEMS: Final = 1_000_000
_SHOWN_STEPS: Final = 8

_pack_double = struct.Struct(">d").pack
_pack_date = struct.Struct(">HBB").pack
_pack_time = struct.Struct(">BBBIB").pack
_NAN: Final = _pack_double(math.nan)


@dataclasses.dataclass(frozen=True, slots=True)
class Tagged:
    """A value that stands for an object, and the word that says what kind of object."""

    tag: str
    value: object


class Refusal(Exception):
    """A value has no canonical form; `canonical` adds the name of the argument to it."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy
        self.path: list[str] = []

    def describe(self, name: str, use: str = "be part of a key") -> str:
        """Say which part of the argument `name` is refused for a use, why, and what to do."""
        # The path is gathered from the inside out; deep down, where it starts says enough.
        steps = self.path[::-1]
        part = name + "".join(steps[:_SHOWN_STEPS]) + ("..." if len(steps) > _SHOWN_STEPS else "")
        return f"argument {name!r} cannot {use}: {part} {self.problem}; {self.remedy}"


@singledispatch
def encode_argument(value: object) -> object:
    """Return what stands for `value` in a key and in a message.

    Register a function for a type to give its instances a form: a `Tagged` value is kept apart from
    every other type; anything else means "the same as this value".

    Raises:
        Refusal: `value` has no canonical form.
    """
    cls = type(value)
    raise Refusal(f"is of type {_type_name(cls)}, which has no canonical form", _remedy(value))


def canonical(value: object, name: str = "value") -> bytes:
    """Return the bytes that name `value`.

    Args:
        value: What an argument was.
        name: The argument's name, for the error.

    Raises:
        UnkeyableArgument: `value`, or something inside it, has no canonical form.
    """
    scalar = _SCALARS.get(type(value))
    try:
        return scalar(value) if scalar is not None else _Writer().write(value, MAX_DEPTH)
    except Refusal as refusal:
        raise UnkeyableArgument(refusal.describe(name)) from None


def reduce_argument(value: object, *, declared: bool = True) -> object:
    """Return the plainer value or the `Tagged` one that stands for an object of a foreign type.

    Args:
        value: The object.
        declared: Whether its own ``__cache_key__`` counts.

    Raises:
        Refusal: there is none.
    """
    cls = type(value)
    held: Any = value
    if declared and hasattr(cls, "__cache_key__"):
        return Tagged("object", (class_path(cls), held.__cache_key__()))
    if issubclass(cls, Flag):
        return Tagged("flag", (class_path(cls), held._value_))
    if issubclass(cls, Enum):
        return Tagged("enum", (class_path(cls), held._name_))
    if _is_named_tuple(cls):
        return Tagged("namedtuple", (class_path(cls), tuple(held)))
    if _is_frozen_dataclass(cls):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(held)}
        return Tagged("dataclass", (class_path(cls), fields))
    return encode_argument.dispatch(cls)(value)


def plain_type(cls: type) -> type | None:
    """Return the built-in type that instances of `cls` are written as, or None.

    None means that `reduce_argument` decides. A type that is both, such as an enum of strings, has
    a form of its own, which wins.
    """
    if cls in _SCALARS or cls in _CONTAINERS:
        return cls
    if (
        hasattr(cls, "__cache_key__")
        or issubclass(cls, Enum)
        or _is_frozen_dataclass(cls)
        or encode_argument.dispatch(cls) is not _REFUSE
    ):
        return None
    return next((base for base in cls.__mro__ if base in _SCALARS), None)


def class_path(cls: type) -> str:
    """Return ``module:QualName`` of a class that other processes can find.

    Raises:
        Refusal: the class was made inside a function.
    """
    if "<locals>" in cls.__qualname__:
        raise Refusal(
            f"is of type {_type_name(cls)}, a class made inside a function, which no other "
            "process can find",
            "define the class at the top level of its module",
        )
    return f"{cls.__module__}:{cls.__qualname__}"


def zone_of(value: datetime | time) -> str | int | None:
    """Return the zone of a date or time: its name, its offset in microseconds, or None if naive.

    Raises:
        Refusal: the zone has neither a name nor an offset.
    """
    zone = value.tzinfo
    if zone is None:
        return None
    if isinstance(zone, ZoneInfo) and zone.key is not None:
        return 0 if zone.key == "UTC" else zone.key
    offset = value.utcoffset()
    if offset is None:
        raise Refusal("has a time zone without an offset", "use zoneinfo.ZoneInfo")
    return offset // timedelta(microseconds=1)


class _Writer:
    """Writes one value; counts its items, so that a value nested in itself comes to an end."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = MAX_ITEMS

    def write(self, value: object, depth: int) -> bytes:
        cls = type(value)
        scalar = _SCALARS.get(cls)
        if scalar is not None:
            return scalar(value)
        if not depth:
            raise Refusal(
                f"lies deeper than {MAX_DEPTH} levels, or in a container that contains itself",
                "pass a flatter value",
            )
        plain = plain_type(cls)
        if plain in _CONTAINERS:
            return _CONTAINERS[plain](self, value, depth - 1)
        if plain is not None:
            return _SCALARS[plain](value)
        reduced = reduce_argument(value)
        if type(reduced) is Tagged:
            tag = reduced.tag.encode()
            return b"t%d:%b%b" % (len(tag), tag, self.write(reduced.value, depth - 1))
        return self.write(reduced, depth - 1)

    def spend(self, items: Collection[object]) -> int:
        count = len(items)
        self._left -= count
        if self._left < 0:
            raise Refusal(f"holds more than {MAX_ITEMS} items", "pass what identifies them instead")
        return count

    def ordered(self, tag: bytes, items: list[object] | tuple[object, ...], depth: int) -> bytes:
        parts = [b"%b%d:" % (tag, self.spend(items))]
        for index, item in enumerate(items):
            try:
                parts.append(self.write(item, depth))
            except Refusal as refusal:
                refusal.path.append(f"[{index}]")
                raise
        return b"".join(parts)

    def unordered(self, tag: bytes, items: Collection[object], depth: int) -> bytes:
        count = self.spend(items)
        try:
            parts = sorted([self.write(item, depth) for item in items])
        except Refusal as refusal:
            refusal.path.append("{item}")
            raise
        return b"%b%d:%b" % (tag, count, b"".join(parts))

    def pairs(self, items: Mapping[Any, object], depth: int) -> list[bytes]:
        self.spend(items)
        parts = []
        for index, (key, item) in enumerate(items.items()):
            try:
                parts.append(self.write(key, depth) + self.write(item, depth))
            except Refusal as refusal:
                refusal.path.append(f"[{key!r}]" if type(key) is str else f"{{item {index}}}")
                raise
        return parts


def _is_frozen_dataclass(cls: type) -> bool:
    # A subclass that is no dataclass itself may hold more than the fields say.
    return "__dataclass_fields__" in vars(cls) and vars(cls)["__dataclass_params__"].frozen is True


def _is_named_tuple(cls: type) -> bool:
    return issubclass(cls, tuple) and isinstance(getattr(cls, "_fields", None), tuple)


def _type_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _remedy(value: object) -> str:
    cls = type(value)
    if isinstance(value, (bytearray, memoryview)):
        return "pass bytes(value)"
    if isinstance(value, Iterator):
        return "pass a list or tuple of its items"
    if issubclass(cls, type):
        return "pass its name; of classes, only Django models have a canonical form"
    if issubclass(cls, (dict, list, tuple, set, frozenset)):
        plain = next(base for base in cls.__mro__ if base in _CONTAINERS)
        return f"pass a plain {plain.__name__}"
    if "__dataclass_fields__" in vars(cls):
        return "declare the dataclass with frozen=True, or give it a method __cache_key__"
    if callable(value) and hasattr(value, "__name__"):
        return "pass what identifies it, such as its name"
    return (
        "pass what identifies it, such as its id, or give its class a method __cache_key__() that "
        "returns that"
    )


def _text(tag: bytes, value: str) -> bytes:
    encoded = str.encode(value, "utf-8", "surrogatepass")
    return b"%b%d:%b" % (tag, len(encoded), encoded)


def _zoned(zone: str | int | None) -> bytes:
    if zone is None:
        return b"n"
    return _text(b"z", zone) if isinstance(zone, str) else b"o%x;" % zone


def _double(value: float) -> bytes:
    return _pack_double(value) if value == value else _NAN


def _clock(value: datetime | time) -> bytes:
    packed = _pack_time(value.hour, value.minute, value.second, value.microsecond, value.fold)
    return packed + _zoned(zone_of(value))


def _decimal(value: Decimal) -> bytes:
    sign, digits, exponent = Decimal.as_tuple(value)
    return b"d%d%b/%b;" % (sign, str(exponent).encode(), "".join(map(str, digits)).encode())


def _path(value: PurePath) -> bytes:
    kind = b"w" if isinstance(value, PureWindowsPath) else b"x"
    return _text(b"P" + (kind.upper() if isinstance(value, Path) else kind), str(value))


_SCALARS: Final[dict[type, Callable[[Any], bytes]]] = {
    type(None): lambda _: b"N",
    bool: lambda value: b"T" if value else b"F",
    int: lambda value: b"i%x;" % int.__pos__(value),
    str: lambda value: _text(b"s", value),
    bytes: lambda value: b"b%d:%b" % (len(value), value),
    float: lambda value: b"f" + _double(float.__pos__(value)),
    complex: lambda value: b"c" + _double(value.real) + _double(value.imag),
    Decimal: _decimal,
    UUID: lambda value: b"u" + value.bytes,
    date: lambda value: b"D" + _pack_date(value.year, value.month, value.day),
    time: lambda value: b"C" + _clock(value),
    datetime: lambda value: b"A" + _pack_date(value.year, value.month, value.day) + _clock(value),
    timedelta: lambda value: b"E%x;" % (value // timedelta(microseconds=1)),
    range: lambda value: b"r%x;%x;%x;" % (value.start, value.stop, value.step),
    PurePath: _path,
}

_CONTAINERS: Final[dict[type, Callable[[_Writer, Any, int], bytes]]] = {
    list: lambda writer, items, depth: writer.ordered(b"L", items, depth),
    tuple: lambda writer, items, depth: writer.ordered(b"U", items, depth),
    set: lambda writer, items, depth: writer.unordered(b"S", items, depth),
    frozenset: lambda writer, items, depth: writer.unordered(b"Z", items, depth),
    dict: lambda writer, items, depth: (
        b"M%d:" % len(items) + b"".join(sorted(writer.pairs(items, depth)))
    ),
    OrderedDict: lambda writer, items, depth: (
        b"O%d:" % len(items) + b"".join(writer.pairs(items, depth))
    ),
}

_REFUSE: Final = encode_argument.dispatch(object)
