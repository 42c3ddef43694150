"""Read a job and a call from the words of a command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from django.apps import apps
from django.core.management.base import CommandError

from async_cache.exceptions import UnkeyableArgument, UnknownJob
from async_cache.jobs.registry import all_jobs, get_job
from async_cache.validators import suggest

__all__ = ["make_job", "parse_call", "parse_json"]


def make_job(name: str, arguments: Sequence[Any] = ()) -> Any:
    """Return an instance of a job.

    Args:
        name: Its name; ``"async_cache.QuerySetGetJob:auth.User"`` makes one for a model.
        arguments: Further arguments of its constructor.

    Raises:
        UnknownJob: There is no such job or model.
        CommandError: The constructor does not take these arguments.
    """
    base, colon, label = name.partition(":")
    try:
        kind: Any = get_job(base)
    except UnknownJob as error:
        raise UnknownJob(f"{error} {suggest(base, all_jobs())}") from error
    leading: list[Any] = []
    if colon:
        try:
            leading.append(apps.get_model(label))
        except (LookupError, ValueError) as error:
            labels = [model._meta.label for model in apps.get_models()]
            message = f"There is no model {label!r}. {suggest(label, labels)}"
            raise UnknownJob(message) from error
    try:
        return kind(*leading, *arguments)
    except UnkeyableArgument:
        raise
    except TypeError as error:
        raise CommandError(
            f"{name} cannot be made: {error}. Give the arguments of its constructor: "
            "--init '[\"EUR\"]'."
        ) from error


def parse_call(
    words: Sequence[str], given: str | None = None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments and keywords of a call.

    Args:
        words: Values and ``name=value`` pairs.
        given: JSON: a list of arguments or an object of keywords, to which the words are added.

    Raises:
        CommandError: The JSON is none, or is neither a list nor an object.
    """
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    if given is not None:
        value = parse_json("--args", given)
        if isinstance(value, dict):
            kwargs.update(value)
        elif isinstance(value, list):
            args.extend(value)
        else:
            raise CommandError("--args must be a JSON list of arguments or an object of keywords.")
    for word in words:
        name, equals, text = word.partition("=")
        if equals and name.isidentifier():
            kwargs[name] = _parse_value(text)
        else:
            args.append(_parse_value(word))
    return tuple(args), kwargs


def parse_json(option: str, text: str) -> Any:
    """Return what an option's JSON says.

    Raises:
        CommandError: It is none.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise CommandError(f"{option} is not JSON: {error}.") from error


def _parse_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
