"""The ``pickle`` serializer: refuse what would not come back, write model instances as rows.

Loading is plain `pickle.loads`, in C from end to end, after the entry's seal was checked.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import AsyncGenerator, Coroutine, Generator
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, Final

from django.db.models import Model, Prefetch, QuerySet
from django.db.models.manager import BaseManager
from django.db.models.query import RawQuerySet

from async_cache.exceptions import UnstorableValue
from async_cache.serializers.base import Serializer, check_size, type_name
from async_cache.serializers.rows import PLAIN_TYPES, Row, has_own_pickling, reduce_instance

__all__ = ["PickleSerializer"]

_FUNCTIONS: Final = (FunctionType, BuiltinFunctionType, MethodType)

_REFUSED: Final[tuple[tuple[type | tuple[type, ...], str], ...]] = (
    ((QuerySet, RawQuerySet), "it is lazy, and would be read again: return list(queryset)"),
    (BaseManager, "it holds no rows: return list(manager.all())"),
    ((Generator, AsyncGenerator), "its first reader would use it up: return a list"),
    (Coroutine, "it has not run: await it, or make fetch an async def"),
    (io.IOBase, "an open file cannot be shared: return what you read from it"),
)


class PickleSerializer(Serializer):
    """Keeps every value type for type."""

    name = "pickle"
    codec = 0

    def dumps(self, value: object, limit: int) -> bytes:
        """Return the pickle of a value."""
        if isinstance(value, _FUNCTIONS):
            raise _refusal(type(value), "it is code, not data: return what it returns")
        target = _Capped(value, limit)
        pickler = _Pickler(target)
        try:
            pickler.dump(value)
        except UnstorableValue:
            raise
        except Exception as error:
            raise _refusal(
                pickler.met or type(value),
                f"pickle raises {type_name(type(error))}; return plain data, model instances, or"
                " objects that can be pickled",
            ) from error
        data = b"".join(target.parts)
        if pickler.doubtful:
            _try_out(data, value)
        return data

    def loads(self, data: bytes) -> Any:
        """Return the value of a pickle that was sealed here."""
        return pickle.loads(data)


class _Capped:
    """What the pickler writes to: stops it soon after the cap, instead of when memory ends."""

    __slots__ = ("limit", "parts", "size", "value")

    def __init__(self, value: object, limit: int) -> None:
        self.value = value
        self.limit = limit
        self.parts: list[bytes] = []
        self.size = 0

    def write(self, data: bytes) -> int:
        self.size += len(data)
        check_size(self.size, self.limit, self.value)
        self.parts.append(bytes(data))
        return len(data)


class _Pickler(pickle.Pickler):
    """Pickles one value; C calls `reducer_override` for what is not a built-in container."""

    def __init__(self, target: _Capped) -> None:
        super().__init__(target, 5)
        self.met: type | None = None
        self.doubtful = False
        self._shapes: dict[Any, Row] = {}
        # Querysets that hold prefetched objects: evaluated, and part of an instance. By id, with
        # the queryset kept so that no other one gets its id.
        self._prefetched: dict[int, object] = {}

    def reducer_override(self, obj: Any) -> Any:
        cls = type(obj)
        if cls in PLAIN_TYPES or cls is Row or issubclass(cls, type):
            return NotImplemented
        self.met = cls
        if issubclass(cls, Model):
            self._expect(*obj.__dict__.get("_prefetched_objects_cache", {}).values())
            self.doubtful |= has_own_pickling(cls)
            return reduce_instance(obj, self._shapes)
        if cls is FunctionType:
            if "<" in obj.__qualname__:
                raise _refusal(cls, "a lambda or inner function has no name to load it by")
            return NotImplemented
        if id(obj) not in self._prefetched:
            for types, remedy in _REFUSED:
                if isinstance(obj, types):
                    raise _refusal(cls, remedy)
        if cls is memoryview:
            return (memoryview, (bytes(obj),))
        self.doubtful = True
        if cls is Prefetch:
            state = obj.__getstate__()
            self._expect(state.get("queryset"))
            return (object.__new__, (Prefetch,), state)
        return NotImplemented

    def _expect(self, *querysets: object) -> None:
        self._prefetched.update((id(queryset), queryset) for queryset in querysets)


def _try_out(data: bytes, value: object) -> None:
    """Load once here what would otherwise be a miss, and a fetch, at every read."""
    try:
        pickle.loads(data)
    except Exception as error:
        raise _refusal(
            type(value),
            f"it pickles but does not load again ({type_name(type(error))}); give the class a"
            " __reduce__ that does",
        ) from error


def _refusal(cls: type, reason: str) -> UnstorableValue:
    return UnstorableValue(f"A {type_name(cls)} cannot be stored: {reason}.")
