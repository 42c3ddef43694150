"""The forms of plain values: what has no parts, and what a refused value is told."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

__all__ = ["SCALARS", "Refusal", "zone_of"]

_SHOWN_STEPS: Final = 8

_pack_double = struct.Struct(">d").pack
_pack_date = struct.Struct(">HBB").pack
_pack_time = struct.Struct(">BBBIB").pack
_NAN: Final = _pack_double(math.nan)


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


SCALARS: Final[dict[type, Callable[[Any], bytes]]] = {
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
"""How each is written, by type."""
