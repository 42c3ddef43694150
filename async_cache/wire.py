"""Arguments as JSON and back, type for type.

JSON's own types stand for themselves. Everything else is an object with one member, whose name is
the type: ``{"tuple": [1, "a"]}``. Two things come back plainer than they went: an instance of a
subclass of str, int, datetime and the like is the plain value, and a time zone that is no
``ZoneInfo`` is its offset.

`loads_arguments` imports the classes and loads the rows that the data names. Only data whose seal
has been checked may reach it.
"""

from __future__ import annotations

import dataclasses
import math
from base64 import b64decode, b64encode
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag
from importlib import import_module
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any, Final, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

from async_cache.arguments import MODEL, MODEL_CLASS, Rows, load_model_class
from async_cache.canonical import (
    MAX_DEPTH,
    Refusal,
    Tagged,
    class_path,
    plain_type,
    reduce_argument,
    zone_of,
)
from async_cache.exceptions import MessageRejected, UnkeyableArgument

__all__ = ["MALFORMED", "dumps_arguments", "loads_arguments", "want_rows"]

_T = TypeVar("_T")

# Beyond it Python's conversion to decimal text is slow, and in the end refused.
_MAX_BITS: Final = 1024


def dumps_arguments(value: object, name: str = "value") -> Any:
    """Return what `json.dumps` takes and `loads_arguments` turns into an equal value.

    Args:
        value: What an argument was.
        name: The argument's name, for the error.

    Raises:
        UnkeyableArgument: `value`, or something inside it, cannot travel.
    """
    try:
        return _dump(value, MAX_DEPTH + 1)
    except Refusal as refusal:
        raise UnkeyableArgument(refusal.describe(name, "travel to a worker")) from None


def loads_arguments(data: Any, rows: Rows | None = None) -> Any:
    """Return the value that `dumps_arguments` was given.

    Args:
        data: What `json.loads` made of it.
        rows: The model instances of a larger whole, told of `data` by `want_rows`. Without it
            each model and database that `data` names costs one query.

    Raises:
        MessageRejected: A class or row does not exist (any more), or the data is malformed.
        django.db.Error: The database does not answer.
    """
    if rows is None:
        rows = Rows()
        want_rows(data, rows)
    try:
        return _load(data, rows)
    except MALFORMED as error:
        raise _malformed(error) from error


def want_rows(data: Any, rows: Rows) -> None:
    """Tell `rows` of every model instance that `data` names.

    Raises:
        MessageRejected: The data is malformed.
    """
    if isinstance(data, list):
        for item in data:
            want_rows(item, rows)
    elif isinstance(data, dict):
        for tag, body in data.items():
            if tag == MODEL:
                try:
                    rows.want(*_load(body, rows))
                except MALFORMED as error:
                    raise _malformed(error) from error
            else:
                want_rows(body, rows)


def _dump(value: Any, depth: int) -> Any:
    cls = type(value)
    if value is None or cls is bool:
        return value
    if not depth:
        raise Refusal(f"lies deeper than {MAX_DEPTH} levels", "pass a flatter value")
    plain = plain_type(cls)
    if plain is not None:
        return _DUMPERS[plain](value, depth - 1)
    if isinstance(value, type) and issubclass(value, BaseException):
        return {"exception": class_path(value)}
    declared = hasattr(cls, "__cache_key__")
    revivable = hasattr(cls, "__from_cache_key__")
    try:
        reduced = reduce_argument(value, declared=revivable)
    except Refusal as refusal:
        if declared and not revivable:
            refusal.remedy = "give its class a classmethod __from_cache_key__(value) as well"
        raise
    if type(reduced) is Tagged:
        return {reduced.tag: _dump(reduced.value, depth - 1)}
    return _dump(reduced, depth - 1)


def _dump_int(value: int, depth: int) -> Any:
    value = int.__pos__(value)
    return value if value.bit_length() <= _MAX_BITS else {"int": f"{value:x}"}


def _dump_float(value: float, depth: int) -> Any:
    value = float.__pos__(value)
    return value if math.isfinite(value) else {"float": repr(value)}


def _dump_str(value: str, depth: int) -> Any:
    try:
        str.encode(value)
    except UnicodeEncodeError:
        # JSON would merge a pair of surrogates into one character.
        return {"str": b64encode(str.encode(value, "utf-8", "surrogatepass")).decode("ascii")}
    return str.__str__(value)


def _dump_list(value: Any, depth: int) -> list[Any]:
    return [_dump(item, depth) for item in value]


def _dump_pairs(value: Any, depth: int) -> list[Any]:
    return [[_dump(key, depth), _dump(item, depth)] for key, item in value.items()]


def _dump_path(value: PurePath, depth: int) -> Any:
    flavour = "windows" if isinstance(value, PureWindowsPath) else "posix"
    return {"path": [flavour, isinstance(value, Path), _dump_str(str(value), depth)]}


def _dump_clock(value: Any) -> list[Any]:
    return [value.replace(tzinfo=None, fold=0).isoformat(), value.fold, zone_of(value)]


_DUMPERS: Final[dict[type, Callable[[Any, int], Any]]] = {
    int: _dump_int,
    float: _dump_float,
    str: _dump_str,
    list: _dump_list,
    tuple: lambda value, depth: {"tuple": _dump_list(value, depth)},
    set: lambda value, depth: {"set": _dump_list(value, depth)},
    frozenset: lambda value, depth: {"frozenset": _dump_list(value, depth)},
    dict: lambda value, depth: {"dict": _dump_pairs(value, depth)},
    OrderedDict: lambda value, depth: {"ordereddict": _dump_pairs(value, depth)},
    bytes: lambda value, depth: {"bytes": b64encode(value).decode("ascii")},
    complex: lambda value, depth: {
        "complex": [_dump_float(value.real, depth), _dump_float(value.imag, depth)]
    },
    Decimal: lambda value, depth: {"decimal": Decimal.__str__(value)},
    UUID: lambda value, depth: {"uuid": value.hex},
    date: lambda value, depth: {"date": value.isoformat()},
    datetime: lambda value, depth: {"datetime": _dump_clock(value)},
    time: lambda value, depth: {"time": _dump_clock(value)},
    timedelta: lambda value, depth: {"timedelta": [value.days, value.seconds, value.microseconds]},
    range: lambda value, depth: {
        "range": [_dump_int(part, depth) for part in (value.start, value.stop, value.step)]
    },
    PurePath: _dump_path,
}


MALFORMED: Final = (
    ArithmeticError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
)


def _malformed(error: Exception) -> MessageRejected:
    return MessageRejected(f"An argument in the message does not load: {error!r}.")


def _load(data: Any, rows: Rows) -> Any:
    if isinstance(data, list):
        return [_load(item, rows) for item in data]
    if isinstance(data, dict):
        [(tag, body)] = data.items()
        return _LOADERS[tag](body, rows)
    return data


def _load_pairs(body: Any, rows: Rows) -> Any:
    return ((_load(key, rows), _load(item, rows)) for key, item in body)


def _load_path(body: Any, rows: Rows) -> PurePath:
    flavour, concrete, text = body
    pure = {"posix": PurePosixPath, "windows": PureWindowsPath}[flavour](_load(text, rows))
    if not concrete:
        return pure
    if not isinstance(Path(), type(pure)):
        raise MessageRejected(f"The message names a {flavour} path on another system.")
    return Path(pure)


def _load_zone(zone: Any) -> timezone | ZoneInfo | None:
    if zone is None:
        return None
    if isinstance(zone, str):
        try:
            return ZoneInfo(zone)
        except OSError as error:
            raise MessageRejected(f"The message names the time zone {zone!r}: {error}") from error
    return timezone(timedelta(microseconds=zone)) if zone else UTC


def _load_datetime(body: Any, rows: Rows) -> datetime:
    text, fold, zone = body
    return datetime.fromisoformat(text).replace(fold=fold, tzinfo=_load_zone(zone))


def _load_time(body: Any, rows: Rows) -> time:
    text, fold, zone = body
    return time.fromisoformat(text).replace(fold=fold, tzinfo=_load_zone(zone))


def _load_model(body: Any, rows: Rows) -> Any:
    label, key, alias = _load(body, rows)
    return rows.get(label, key, alias)


def _load_enum(body: Any, rows: Rows) -> Any:
    path, name = _load(body, rows)
    return _find_class(path, Enum)[name]


def _load_flag(body: Any, rows: Rows) -> Any:
    path, value = _load(body, rows)
    return _find_class(path, Flag)(value)


def _load_namedtuple(body: Any, rows: Rows) -> Any:
    path, values = _load(body, rows)
    cls: Any = _find_class(path, tuple)
    return cls._make(values)


def _load_dataclass(body: Any, rows: Rows) -> Any:
    path, values = _load(body, rows)
    cls: Any = _find_class(path, object)
    if values.keys() != {field.name for field in dataclasses.fields(cls)}:
        raise MessageRejected(f"The message holds other fields of {path} than it has here.")
    # As pickle does it: a second run of __post_init__ might change what the first one made.
    instance = object.__new__(cls)
    for name, value in values.items():
        object.__setattr__(instance, name, value)
    return instance


def _load_object(body: Any, rows: Rows) -> Any:
    path, value = _load(body, rows)
    cls: Any = _find_class(path, object)
    return cls.__from_cache_key__(value)


def _find_class(path: str, base: type[_T]) -> type[_T]:
    module, _, name = path.partition(":")
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # whatever the module raises, the message names nothing usable
        raise MessageRejected(
            f"The message names {path}, which does not import: {error}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise MessageRejected(f"The message names {path}, which is no {base.__name__}.")
    return found


_LOADERS: Final[dict[str, Callable[[Any, Rows], Any]]] = {
    "int": lambda body, rows: int(body, 16),
    "float": lambda body, rows: float(body),
    "str": lambda body, rows: b64decode(body, validate=True).decode("utf-8", "surrogatepass"),
    "tuple": lambda body, rows: tuple(_load(item, rows) for item in body),
    "set": lambda body, rows: {_load(item, rows) for item in body},
    "frozenset": lambda body, rows: frozenset(_load(item, rows) for item in body),
    "dict": lambda body, rows: dict(_load_pairs(body, rows)),
    "ordereddict": lambda body, rows: OrderedDict(_load_pairs(body, rows)),
    "bytes": lambda body, rows: b64decode(body, validate=True),
    "complex": lambda body, rows: complex(*_load(body, rows)),
    "decimal": lambda body, rows: Decimal(body),
    "uuid": lambda body, rows: UUID(hex=body),
    "date": lambda body, rows: date.fromisoformat(body),
    "datetime": _load_datetime,
    "time": _load_time,
    "timedelta": lambda body, rows: timedelta(*body),
    "range": lambda body, rows: range(*_load(body, rows)),
    "path": _load_path,
    "enum": _load_enum,
    "flag": _load_flag,
    "namedtuple": _load_namedtuple,
    "dataclass": _load_dataclass,
    "object": _load_object,
    "exception": lambda body, rows: _find_class(body, BaseException),
    MODEL: _load_model,
    MODEL_CLASS: lambda body, rows: load_model_class(body),
}
