"""Validators: what a setting or an option accepts, and the form it takes inside.

Pure. A validator returns the value in its final form (seconds as a float, a sequence as a tuple) or
raises `Refused`, which says what is wrong and what to write.
"""

from __future__ import annotations

import difflib
import math
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final

Validator = Callable[[Any], Any]
"""Returns the value in its final form, or raises `Refused`."""

DISPATCHER_NAMES: Final = ("celery", "django_tasks", "immediate", "thread")

# What the dispatchers fill in themselves: a project's value would break a bound or a promise.
_RESERVED_TASK_OPTIONS: Final = {
    "args": "the message carries the arguments",
    "kwargs": "the message carries the arguments",
    "argsrepr": "arguments are kept out of logs and events",
    "kwargsrepr": "arguments are kept out of logs and events",
    "task_id": "each refresh gets its own id",
    "retry": "a failed publish is retried by async_cache, off the request path",
    "retry_policy": "a failed publish is retried by async_cache, off the request path",
    "expires": "a message lives as long as its refresh is of use",
    "ignore_result": "a refresh leaves its value in the cache",
    "queue": "use the option `queue`",
    "serializer": "messages are sealed JSON",
    "soft_time_limit": "use the option `fetch_timeout`",
    "time_limit": "use the option `fetch_timeout`",
    "add_to_parent": "async_cache publishes over a connection of its own",
    "confirm_timeout": "async_cache publishes over a connection of its own",
    "producer": "async_cache publishes over a connection of its own",
}

_DURATION_REMEDY: Final = "Give seconds as a number, or a datetime.timedelta."


class Refused(ValueError):
    """A value that an option does not accept.

    Attributes:
        reason: What is wrong with it.
        remedy: What to write in its place.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}. {remedy}")
        self.reason = reason
        self.remedy = remedy


def suggest(name: object, known: Iterable[str]) -> str:
    """Return a hint that names the known word nearest to ``name``, or all of them."""
    words = sorted(known)
    folded = {word.casefold(): word for word in words}
    near = difflib.get_close_matches(str(name).casefold(), folded, n=1, cutoff=0.6)
    if near:
        return f"Did you mean {folded[near[0]]!r}?"
    return f"Known are: {', '.join(words)}." if words else "None is known."


def as_seconds(value: object) -> float:
    """Return a duration as seconds."""
    if isinstance(value, timedelta):
        number = value.total_seconds()
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise Refused(f"{shown(value)} is not a duration", _DURATION_REMEDY)
    else:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
    if not math.isfinite(number):
        raise Refused("a duration must be finite", _DURATION_REMEDY)
    if number < 0:
        raise Refused(f"{shown(value)} is negative", _DURATION_REMEDY)
    return number + 0.0  # turns -0.0 into 0.0


def shown(value: object) -> str:
    """Return a short form of a settings value for an error, without what it may contain."""
    if value is None or isinstance(value, str | int | float | timedelta):
        return reprlib.repr(value)
    return f"a {type(value).__qualname__}"


def duration(*, none: bool = False, positive: bool = False) -> Validator:
    """Accept a duration.

    Args:
        none: Accept None too.
        positive: Refuse zero too.
    """

    def clean(value: Any) -> float | None:
        if value is None:
            if not none:
                raise Refused("None is not a duration here", _DURATION_REMEDY)
            return None
        number = as_seconds(value)
        if positive and not number:
            raise Refused("it must be more than zero", _DURATION_REMEDY)
        return number

    return clean


def boolean(value: Any) -> bool:
    """Accept True or False."""
    if not isinstance(value, bool):
        raise Refused(f"{shown(value)} is not a bool", "Give True or False.")
    return value


def number(*, minimum: float, below: float = math.inf) -> Validator:
    """Accept a finite number in ``[minimum, below)``."""
    extent = f"{minimum:g} or more" + (f" and less than {below:g}" if below < math.inf else "")

    def clean(value: Any) -> float:
        fits = (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and minimum <= value < below
        )
        if not fits:
            raise Refused(f"{shown(value)} does not fit", f"Give a number, {extent}.")
        return float(value)

    return clean


_weight: Final[Validator] = number(minimum=0)


def early(value: Any) -> float | timedelta:
    """Accept a weight of probabilistic early refresh, or a timedelta before the ttl's end."""
    if isinstance(value, timedelta):
        return timedelta(seconds=as_seconds(value))
    return float(_weight(value))


def integer(*, minimum: int, none: bool = False) -> Validator:
    """Accept an int of at least ``minimum``."""

    def clean(value: Any) -> int | None:
        if value is None and none:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            remedy = f"Give a whole number, {minimum} or more" + (", or None." if none else ".")
            raise Refused(f"{shown(value)} does not fit", remedy)
        return int(value)

    return clean


def text(what: str, *, none: bool = False) -> Validator:
    """Accept a non-empty str."""

    def clean(value: Any) -> str | None:
        if value is None and none:
            return None
        if not isinstance(value, str) or not value.strip():
            raise Refused(f"{shown(value)} is not {what}", f"Give {what} as a str.")
        return str(value)

    return clean


def words(what: str, pattern: re.Pattern[str] | None = None) -> Validator:
    """Accept a sequence of non-empty str; a lone str is a mistake, not a sequence of letters."""
    example = f'("{what}",)'

    def clean(value: Any) -> tuple[str, ...]:
        if isinstance(value, str) or not isinstance(value, list | tuple | set | frozenset):
            raise Refused(f"{shown(value)} is not a sequence of names", f"Write {example}.")
        for word in value:
            if not isinstance(word, str) or not word:
                raise Refused(f"{shown(word)} is not a name", f"Write {example}.")
            if pattern is not None and not pattern.fullmatch(word):
                raise Refused(f"{word!r} is not a name", f"Use {pattern.pattern}.")
        ordered = sorted(value) if isinstance(value, set | frozenset) else value
        return tuple(dict.fromkeys(str(word) for word in ordered))

    return clean


def matching(what: str, pattern: re.Pattern[str]) -> Validator:
    """Accept a str that matches the pattern as a whole."""

    def clean(value: Any) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise Refused(f"{shown(value)} is not {what}", f"Use {pattern.pattern}.")
        return str(value)

    return clean


def exceptions(value: Any) -> tuple[type[Exception], ...]:
    """Accept an exception class or a sequence of them."""
    remedy = "Give exception classes: (LookupError,)."
    kinds = (value,) if isinstance(value, type) else value
    if not isinstance(kinds, list | tuple):
        raise Refused(f"{shown(value)} is not a sequence of exception classes", remedy)
    for kind in kinds:
        if not isinstance(kind, type) or not issubclass(kind, Exception):
            raise Refused(f"{shown(kind)} is not an exception class", remedy)
    return tuple(kinds)


_VERSION: Final = re.compile(r"[A-Za-z0-9_.-]{1,40}")


def version(value: Any) -> int | str:
    """Accept a whole number or a short str of safe characters."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return int(value)
    if isinstance(value, str) and _VERSION.fullmatch(value):
        return str(value)
    raise Refused(
        f"{shown(value)} is not a version",
        f"Give a whole number, 0 or more, or a str that matches {_VERSION.pattern}.",
    )


_DOTTED: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def dispatcher(value: Any) -> str:
    """Accept the name of a dispatcher or a dotted path to one."""
    if isinstance(value, str) and (value in DISPATCHER_NAMES or _DOTTED.fullmatch(value)):
        return str(value)
    known = ", ".join(DISPATCHER_NAMES)
    near = suggest(value, DISPATCHER_NAMES) if isinstance(value, str) else f"Known are: {known}."
    raise Refused(f"{shown(value)} is not a dispatcher", f"{near} A dotted path also works.")


def optional(validator: Validator) -> Validator:
    """Accept None besides what ``validator`` accepts."""
    return lambda value: None if value is None else validator(value)


def task_options(value: Any) -> Mapping[str, Any]:
    """Accept a mapping of publishing options that async_cache does not set itself."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise Refused(f"{shown(value)} is not a dict of names", 'Write {"priority": 3}.')
    for key in value:
        if key in _RESERVED_TASK_OPTIONS:
            raise Refused(f"{key!r} is not free", f"Remove it: {_RESERVED_TASK_OPTIONS[key]}.")
    return MappingProxyType(dict(value))
