"""Values that are easily confused, for tests of keys and messages.

Run as a program it checks pairs of them and prints a digest of all their canonical forms, which
must not depend on the process: ``python -m tests.typed_values 40000``.
"""

from __future__ import annotations

import dataclasses
import math
import struct
import sys
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum
from hashlib import blake2b
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from random import Random
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from async_cache.canonical import canonical


class Colour(Enum):
    RED = 1
    GREEN = 2


class Size(str, Enum):  # noqa: UP042 (as Django's choices do it)
    SMALL = "small"
    LARGE = "large"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Right(Flag):
    READ = 1
    WRITE = 2


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclasses.dataclass(frozen=True)
class Point:
    x: Any
    y: Any


@dataclasses.dataclass(frozen=True, slots=True)
class Money:
    amount: Any
    currency: str = "EUR"


class Tenant:
    def __init__(self, name: Any) -> None:
        self.name = name

    def __cache_key__(self) -> Any:
        return self.name

    @classmethod
    def __from_cache_key__(cls, value: Any) -> Tenant:
        return cls(value)


class Shard(Tenant):
    pass


PARIS = ZoneInfo("Europe/Paris")
NOON = datetime(2024, 10, 27, 2, 30)

SCALARS: list[Any] = [
    *(None, True, False, 0, 1, 2, -1, 12, 255, 2**64, -(2**70), 2**20000),
    *(0.0, -0.0, 1.0, 2.0, -1.0, 0.1, math.nan, math.inf, -math.inf, 1j, 1 + 0j),
    *("", "a", "b", "ab", "a:b", "1", "1.0", "True", "None", "i1;", "s1:a", "é", "e\u0301", "\0"),
    *("\ud83d\ude00", "\U0001f600", "red", "small", "RED", "x" * 300),
    *(b"", b"a", b"b", b"ab", b"1", b"\0", b"\xff"),
    *map(Decimal, ("0", "-0", "1", "1.0", "1.00", "1E+2", "100", "NaN", "Infinity", "-Infinity")),
    *(UUID(int=1), UUID(int=2**127)),
    *(date(2024, 1, 1), date(2024, 1, 2), time(0), time(1, 2, 3, 4), time(1, tzinfo=PARIS)),
    *(time(1, tzinfo=UTC), time(1, 2, 3, 4, fold=1)),
    *(datetime(2024, 1, 1), datetime(2024, 1, 1, tzinfo=UTC), NOON, NOON.replace(fold=1)),
    *(NOON.replace(tzinfo=PARIS), NOON.replace(tzinfo=PARIS, fold=1)),
    *(NOON.replace(tzinfo=ZoneInfo("Europe/Berlin")), NOON.replace(tzinfo=UTC)),
    *(NOON.replace(tzinfo=timezone(timedelta(hours=h))) for h in (1, 2, -5)),
    *(timedelta(0), timedelta(1), timedelta(microseconds=-1), timedelta.max),
    *(range(3), range(0, 3, 2), range(1), range(0)),
    *(Colour.RED, Colour.GREEN, Size.SMALL, Size.LARGE, Level.LOW, Level.HIGH),
    *(Right.READ, Right.READ | Right.WRITE, Right(0)),
    *(Path("a"), PurePosixPath("a"), PureWindowsPath("a"), Path("a/b")),
]

HASHABLE = [value for value in SCALARS if value == value]


def make(random: Random, depth: int = 3) -> Any:
    """Return some value."""
    kind = random.randrange(20) if depth else 0
    if kind < 8:
        return random.choice(SCALARS)
    items = [make(random, depth - 1) for _ in range(random.randrange(4))]
    if kind < 10:
        return items
    if kind < 12:
        return tuple(items)
    if kind < 14:
        return {make_hashable(random): item for item in items}
    if kind == 14:
        return OrderedDict((make_hashable(random), item) for item in items)
    if kind == 15:
        return {make_hashable(random) for _ in items}
    if kind == 16:
        return frozenset(make_hashable(random) for _ in items)
    if kind == 17:
        return Pair(make(random, depth - 1), None)
    if kind == 18:
        held = make(random, depth - 1)
        return Point(held, 1) if random.randrange(2) else Money(held)
    return random.choice([Tenant, Shard])(make(random, depth - 1))


def make_hashable(random: Random) -> Any:
    value = random.choice(HASHABLE)
    return value if random.randrange(4) else (value, random.choice(HASHABLE))


def again(value: Any, random: Random) -> Any:
    """Return an equal value, built anew and in another order where order does not count."""
    cls = type(value)
    if cls in (list, tuple):
        return cls(again(item, random) for item in value)
    if cls in (set, frozenset, dict):
        # Iteration order differs from process to process; the outcome must not.
        items = sorted(value, key=canonical)
        random.shuffle(items)
        if cls is dict:
            return {again(key, random): again(value[key], random) for key in items}
        return cls(again(item, random) for item in items)
    if cls is OrderedDict:
        return OrderedDict((key, again(item, random)) for key, item in value.items())
    if cls is str:
        return "".join(list(value))
    if cls in (Point, Pair):
        return cls(*(again(getattr(value, name), random) for name in cls.__annotations__))
    if cls in (Tenant, Shard):
        return cls(again(value.name, random))
    return value


def confuse(value: Any, random: Random) -> Any:
    """Return a value that looks much like `value`, or is the same."""
    cls = type(value)
    if cls in (list, tuple) and value and random.randrange(2):
        index = random.randrange(len(value))
        return cls([*value[:index], confuse(value[index], random), *value[index + 1 :]])
    if cls is dict and value and random.randrange(2):
        chosen = sorted(value, key=canonical)[random.randrange(len(value))]
        return {**value, chosen: confuse(value[chosen], random)}
    if cls in (Tenant, Shard) and random.randrange(2):
        return cls(confuse(value.name, random))
    return random.choice(_confusions(value, cls))(value)


def _confusions(value: Any, cls: type) -> list[Callable[[Any], Any]]:
    if cls in (list, tuple):
        return [
            *(list, tuple, lambda v: [v], lambda v: (v,), lambda v: cls(reversed(v))),
            *(lambda v: cls([cls(v[:1]), *v[1:]]), lambda v: cls([*v[:-1], cls(v[-1:])])),
            *(lambda v: Tenant(v), lambda v: Pair(*v[:2]) if len(v) > 1 else v),
            lambda v: dict(enumerate(v)),
            lambda v: cls([part for i in v for part in (i.split(":") if type(i) is str else [i])]),
        ]
    if cls in (set, frozenset):
        return [set, frozenset, lambda v: sorted(v, key=canonical)]
    if cls in (dict, OrderedDict):
        return [
            *(dict, OrderedDict, lambda v: OrderedDict(reversed(v.items()))),
            *(lambda v: sorted(v.items(), key=canonical), lambda v: sorted(v, key=canonical)),
        ]
    if isinstance(value, (Enum, Path)):
        return [lambda v: getattr(v, "value", str(v)), lambda v: getattr(v, "name", "a")]
    if isinstance(value, (Point, Pair, Tenant, Money)):
        return [lambda v: tuple(vars(v).values()) if hasattr(v, "__dict__") else v]
    if isinstance(value, (datetime, time)):
        return [
            *(lambda v: v.replace(tzinfo=UTC), lambda v: v.replace(tzinfo=None)),
            *(lambda v: v.replace(fold=1 - v.fold), lambda v: v.isoformat()),
        ]
    if cls is str:
        return [
            *(str.encode if value.isascii() else list, list, lambda v: v + "a", str.upper),
            *(lambda v: [v], lambda v: (v,), lambda v: Tenant(v), lambda v: PurePath(v or ".")),
        ]
    if cls in (int, bool, float, Decimal) and value == value and abs(value) < 2**53:
        return [int, float, bool, Decimal, str, lambda v: -v, complex, lambda v: [v]]
    return [lambda v: [v], lambda v: (v,), lambda v: Shard(v), lambda v: None]


def same(left: Any, right: Any) -> bool:
    """Say whether a fetch could not tell two values apart, types included."""
    cls = type(left)
    if cls is not type(right):
        return False
    if cls is float:
        return (left != left and right != right) or struct.pack("d", left) == struct.pack(
            "d", right
        )
    if cls is complex:
        return same(left.real, right.real) and same(left.imag, right.imag)
    if cls is Decimal:
        return bool(left.as_tuple() == right.as_tuple())
    if cls in (datetime, time):
        plain = left.replace(tzinfo=None) == right.replace(tzinfo=None)
        return plain and left.fold == right.fold and zone(left) == zone(right)
    if cls is range:
        return (left.start, left.stop, left.step) == (right.start, right.stop, right.step)
    if cls in (list, tuple, Pair):
        return len(left) == len(right) and all(map(same, left, right))
    if cls is OrderedDict:
        return same(list(left.items()), list(right.items()))
    if cls is dict:
        return _match(list(left.items()), list(right.items()))
    if cls in (set, frozenset):
        return _match(list(left), list(right))
    if cls in (Point, Money):
        return all(
            same(getattr(left, f.name), getattr(right, f.name)) for f in dataclasses.fields(cls)
        )
    if cls in (Tenant, Shard):
        return same(left.name, right.name)
    return bool(left == right)


def zone(value: datetime | time) -> object:
    """Return what tells one zone from another; UTC has two spellings."""
    tz = value.tzinfo
    if tz is None or (isinstance(tz, ZoneInfo) and tz.key != "UTC"):
        return tz and str(tz)
    return tz.utcoffset(None) if isinstance(tz, timezone) else timedelta(0)


def _match(left: list[Any], right: list[Any]) -> bool:
    if len(left) != len(right):
        return False
    for item in left:
        for index, other in enumerate(right):
            if same(item, other):
                del right[index]
                break
        else:
            return False
    return True


def check_pairs(count: int) -> tuple[str, int, int]:
    """Check that the canonical form tells exactly the different values apart.

    Returns:
        A digest of all forms, and how many pairs were the same and how many were different.
    """
    random = Random(20240229)
    seen = blake2b(digest_size=16)
    forms: dict[bytes, Any] = {}
    tally = [0, 0]
    for number in range(count):
        value = make(random)
        other = again(value, random) if number % 3 == 0 else confuse(value, random)
        form, other_form = canonical(value), canonical(other)
        alike = same(value, other)
        assert alike == (form == other_form), (value, other, form, other_form)
        assert same(forms.setdefault(form, value), value), (forms[form], value)
        assert same(forms.setdefault(other_form, other), other), (forms[other_form], other)
        tally[not alike] += 1
        seen.update(form)
        seen.update(other_form)
    return seen.hexdigest(), tally[0], tally[1]


if __name__ == "__main__":
    print(*check_pairs(int(sys.argv[1])))
