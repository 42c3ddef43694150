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
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from enum import Enum, Flag
from functools import singledispatch
from typing import Any, Final

from async_cache.exceptions import UnkeyableArgument
from async_cache.scalars import SCALARS, Refusal, zone_of

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


@dataclasses.dataclass(frozen=True, slots=True)
class Tagged:
    """A value that stands for an object, and the word that says what kind of object."""

    tag: str
    value: object


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
    scalar = SCALARS.get(type(value))
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
    if cls in SCALARS or cls in _CONTAINERS:
        return cls
    if (
        hasattr(cls, "__cache_key__")
        or issubclass(cls, Enum)
        or _is_frozen_dataclass(cls)
        or encode_argument.dispatch(cls) is not _REFUSE
    ):
        return None
    return next((base for base in cls.__mro__ if base in SCALARS), None)


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


class _Writer:
    """Writes one value; counts its items, so that a value nested in itself comes to an end."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = MAX_ITEMS

    def write(self, value: object, depth: int) -> bytes:
        cls = type(value)
        scalar = SCALARS.get(cls)
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
            return SCALARS[plain](value)
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
