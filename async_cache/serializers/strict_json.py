"""The ``json`` serializer: for values that other programs read.

It takes only what comes back from JSON type for type, and refuses the rest: tuples, sets, keys
that are not text, NaN, subclasses.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final

from async_cache.exceptions import UnstorableValue
from async_cache.serializers.base import Serializer, type_name

__all__ = ["JsonSerializer"]

_MAX_DEPTH: Final = 100


class JsonSerializer(Serializer):
    """Keeps None, bool, int, finite float, str, and lists and dicts of them."""

    name = "json"
    codec = 1

    def dumps(self, value: object, limit: int) -> bytes:
        """Return a value as compact UTF-8 JSON."""
        _check(value, "value", 0)
        try:
            text = json.dumps(
                value, ensure_ascii=False, check_circular=False, separators=(",", ":")
            )
        except ValueError as error:  # an int of more digits than Python turns into text
            raise UnstorableValue(
                "A number has too many digits for JSON: return it as text."
            ) from error
        # Text may hold half of a surrogate pair, and must not be joined with the other half.
        return text.encode("utf-8", "surrogatepass")

    def loads(self, data: bytes) -> Any:
        """Return the value of JSON that was sealed here."""
        return json.loads(data.decode("utf-8", "surrogatepass"))


def _check(value: object, path: str, depth: int) -> None:
    cls = type(value)
    if cls is str or cls is int or cls is bool or value is None:
        return
    if depth > _MAX_DEPTH:
        raise UnstorableValue(
            f"{path[:60]}... is nested deeper than {_MAX_DEPTH}, or holds itself."
        )
    if isinstance(value, float) and cls is float:
        if not math.isfinite(value):
            raise _refusal(path, "a float that is not finite")
    elif isinstance(value, list) and cls is list:
        for index, item in enumerate(value):
            _check(item, f"{path}[{index}]", depth + 1)
    elif isinstance(value, dict) and cls is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise _refusal(path, f"a dict with a key of type {type_name(type(key))}")
            _check(item, f"{path}[...]", depth + 1)
    else:
        raise _refusal(path, f"a {type_name(cls)}")


def _refusal(path: str, what: str) -> UnstorableValue:
    return UnstorableValue(
        f"JSON does not keep {path}, {what}: return str, int, float, bool, None, lists and dicts"
        ' of them, or use serializer = "pickle".'
    )
