"""Options of a job: their names, their defaults and what each accepts.

Pure: no settings are read here. `conf` applies these rules to the ``ASYNC_CACHE`` setting, the job
classes apply them to class attributes and constructor keywords.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final, NamedTuple, overload

from async_cache import validators
from async_cache.exceptions import ConfigurationError
from async_cache.validators import Refused, Validator, as_seconds, shown, suggest

__all__ = [
    "DEFAULTS",
    "OPTIONS",
    "Problem",
    "check_options",
    "clean_option",
    "clean_options",
    "inspect_options",
    "seconds",
]


class Problem(NamedTuple):
    """One thing that is wrong with a setting.

    Attributes:
        kind: ``"type"``, ``"unknown_key"``, ``"unknown_option"`` or ``"value"``.
        where: The place, written as the user would: ``ASYNC_CACHE["JOBS"]["shop.Rates"]["ttl"]``.
        message: What is wrong.
        hint: What to do about it.
    """

    kind: str
    where: str
    message: str
    hint: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}. {self.hint}"


@overload
def seconds(value: None, name: str) -> None: ...
@overload
def seconds(value: float | timedelta, name: str) -> float: ...
@overload
def seconds(value: object, name: str) -> float | None: ...
def seconds(value: object, name: str) -> float | None:
    """Return a duration as seconds; None stays None.

    Args:
        value: A number of seconds or a timedelta.
        name: What to call it in the error.

    Raises:
        ConfigurationError: It is neither, or it is negative, infinite or not a number.
    """
    if value is None:
        return None
    try:
        return as_seconds(value)
    except Refused as refused:
        raise ConfigurationError(f"{name}: {refused}") from None


OPTIONS: Final[Mapping[str, Validator]] = MappingProxyType(
    {
        "ttl": validators.duration(none=True),
        "grace": validators.duration(),
        "max_stale": validators.duration(none=True),
        "fetch_on_miss": validators.boolean,
        "wait": validators.duration(none=True),
        "fetch_timeout": validators.duration(positive=True),
        "lease": validators.duration(positive=True),
        "negative": validators.exceptions,
        "negative_ttl": validators.duration(),
        "jitter": validators.number(minimum=0, below=1),
        "early": validators.early,
        "version": validators.version,
        "vary": validators.words("language", re.compile(r"[^\W\d]\w*(\.\w+)*")),
        "tags": validators.words("tag"),
        "max_keys": validators.integer(minimum=1, none=True),
        "refresh_every": validators.duration(none=True, positive=True),
        "keep_warm": validators.duration(none=True, positive=True),
        "cache": validators.text("an alias of CACHES", none=True),
        "serializer": validators.text("the name of a serializer or a dotted path to one"),
        "dispatcher": validators.optional(validators.dispatcher),
        "queue": validators.text("the name of a queue", none=True),
        "task_options": validators.task_options,
    }
)

DEFAULTS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "ttl": 600.0,
        "grace": 86400.0,
        "max_stale": None,
        "fetch_on_miss": True,
        "wait": None,
        "fetch_timeout": 30.0,
        "lease": 30.0,
        "negative": (),
        "negative_ttl": 30.0,
        "jitter": 0.1,
        "early": 0.0,
        "version": 1,
        "vary": (),
        "tags": (),
        "max_keys": None,
        "refresh_every": None,
        "keep_warm": None,
        "cache": None,
        "serializer": "pickle",
        "dispatcher": None,
        "queue": None,
        "task_options": MappingProxyType({}),
    }
)


def inspect_options(where: str, options: object) -> tuple[dict[str, Any], list[Problem]]:
    """Return the options that hold, in their final form, and a problem for each that does not."""
    if not isinstance(options, Mapping):
        hint = 'Write the options as a dict: {"ttl": 60}.'
        return {}, [Problem("type", where, f"{shown(options)} is not a dict", hint)]
    cleaned: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, value in options.items():
        validator = OPTIONS.get(name) if isinstance(name, str) else None
        if validator is None:
            message = f"unknown option {shown(name)}"
            problems.append(Problem("unknown_option", where, message, suggest(name, OPTIONS)))
            continue
        try:
            cleaned[name] = validator(value)
        except Refused as refused:
            place = f'{where}["{name}"]'
            problems.append(Problem("value", place, refused.reason, refused.remedy))
    return cleaned, problems


def check_options(where: str, options: object) -> list[Problem]:
    """Return a problem for each unknown name and each bad value among the options.

    Args:
        where: How to name the place in the problems.
        options: Option names with their values.
    """
    return inspect_options(where, options)[1]


def clean_options(where: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options in their final form: seconds as floats, sequences as tuples.

    Args:
        where: How to name the place in an error, such as ``"shop.jobs.Rates"``.
        options: Option names with their values.

    Raises:
        ConfigurationError: A name is unknown or a value is bad; the message names it and says
            what to write.
    """
    cleaned, problems = inspect_options(where, options)
    if problems:
        raise ConfigurationError("\n".join(str(problem) for problem in problems))
    return cleaned


def clean_option(where: str, name: str, value: Any) -> Any:
    """Return one option's value in its final form.

    Raises:
        ConfigurationError: The name is unknown or the value is bad.
    """
    return clean_options(where, {name: value})[name]
