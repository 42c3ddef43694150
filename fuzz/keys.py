"""The key builder: two different values never have one form, equal ones always do."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from fuzz.django_setup import set_up

set_up()

from async_cache.canonical import canonical  # noqa: E402
from async_cache.exceptions import UnkeyableArgument  # noqa: E402
from async_cache.wire import dumps_arguments, loads_arguments  # noqa: E402

DEPTH: Final = 4
ZONES: Final = (None, UTC, timezone(timedelta(hours=2)), timezone(timedelta(minutes=-30)))


class Source:
    """Makes values of bytes: the same of the same."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self, below: int) -> int:
        """Return a number below a power of 256 or less; 0 when the bytes are used up."""
        byte = self._data[self._at] if self._at < len(self._data) else 0
        self._at += 1
        return byte % below

    def bytes(self) -> bytes:
        """Return a few bytes."""
        size = self.number(9)
        found = self._data[self._at : self._at + size]
        self._at += size
        return found

    def value(self, depth: int = DEPTH) -> Any:
        """Return a value of any type that keys take."""
        return self._container(depth) if depth and self.number(3) == 0 else self._scalar()

    def _items(self, depth: int) -> Iterator[Any]:
        return (self.value(depth - 1) for _ in range(self.number(4)))

    def _container(self, depth: int) -> Any:
        kind = self.number(6)
        if kind < 2:
            return (list, tuple)[kind](self._items(depth))
        items = [item for item in self._items(depth) if _hashable(item)]
        if kind < 4:
            return (set, frozenset)[kind - 2](items)
        pairs = [(item, self.value(depth - 1)) for item in items]
        return (dict, OrderedDict)[kind - 4](pairs)

    def _scalar(self) -> Any:
        raw = self.bytes()
        small = int.from_bytes(raw[:2])
        match self.number(14):
            case 0:
                return (None, True, False)[self.number(3)]
            case 1:
                return int.from_bytes(raw, signed=True)
            case 2:
                return raw
            case 3:
                return raw.decode("latin-1")
            case 4:
                return raw.decode("utf-16-le", "surrogatepass") if len(raw) % 2 == 0 else "odd"
            case 5:
                return float(int.from_bytes(raw[:4])) / 8
            case 6:
                return (math.nan, math.inf, -math.inf, 0.0, -0.0)[self.number(5)]
            case 7:
                return Decimal(int.from_bytes(raw[:3])).scaleb(-self.number(5))
            case 8:
                return UUID(bytes=raw.ljust(16, b"\0"))
            case 9:
                return date.fromordinal(1 + small)
            case 10:
                return time(small % 24, small % 60, fold=self.number(2), tzinfo=self._zone())
            case 11:
                return datetime.fromordinal(1 + small).replace(tzinfo=self._zone())
            case 12:
                return timedelta(microseconds=int.from_bytes(raw[:5], signed=True))
            case _:
                return range(self.number(5), self.number(9), 1 + self.number(3))

    def _zone(self) -> Any:
        return ZONES[self.number(len(ZONES))]


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def told(value: Any) -> Any:
    """Return what tells a value from every other one, made in another way than its form is."""
    cls = type(value)
    if cls in (list, tuple):
        return cls.__name__, tuple(map(told, value))
    if cls in (set, frozenset):
        return cls.__name__, frozenset(map(told, value))
    if cls is dict:
        return "dict", frozenset((told(key), told(item)) for key, item in value.items())
    if cls is OrderedDict:
        return "ordered", tuple((told(key), told(item)) for key, item in value.items())
    if cls in (datetime, time):
        zone = None if value.tzinfo is None else value.utcoffset()
        return cls.__name__, repr(value.replace(tzinfo=None)), value.fold, zone
    return cls.__name__, repr(value)


def form(value: Any) -> bytes | None:
    """Return a value's form, None where it has none."""
    try:
        return canonical(value)
    except UnkeyableArgument:
        return None


def check(data: bytes) -> None:
    """Compare the forms of two values; send one of them to a worker."""
    source = Source(data)
    first, second = source.value(), source.value()
    one, other = form(first), form(second)
    if one is None or other is None:
        return
    if (one == other) != (told(first) == told(second)):
        raise AssertionError(f"{first!r} and {second!r} have the forms {one!r} and {other!r}")
    if canonical((first, second)) == canonical((second, first)) and one != other:
        raise AssertionError(f"the order of {first!r} and {second!r} is lost")
    if form(loads_arguments(dumps_arguments(first))) != one:
        raise AssertionError(f"{first!r} has another form in a worker")
