"""The subcommands that look at jobs and act on them."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
from collections.abc import Mapping
from enum import Enum
from typing import Any, ClassVar, Final

from django.core.exceptions import MultipleObjectsReturned, ObjectDoesNotExist
from django.core.management.base import BaseCommand, CommandError

from async_cache.conf import get_settings
from async_cache.jobs.registry import all_jobs
from async_cache.management.calls import make_job, parse_call, parse_json
from async_cache.management.subcommands import Subcommand
from async_cache.options import DEFAULTS, clean_option
from async_cache.resolution import configured, is_computed
from async_cache.tags import invalidate_tags

__all__ = ["SUBCOMMANDS"]

_CALL_HINT: Final = "Give the arguments of its `fetch`: value, or name=value."
_CALL_HELP: Final = (
    "an argument of the call: value, or name=value. A value is read as JSON where it is JSON, else "
    "as text: 1 is a number, '\"1\"' is text."
)


def _source(job: type, name: str, option: str) -> str:
    """Return where a class's option comes from, by the same precedence that jobs use."""
    if option in configured(name):
        return "JOBS"
    if hasattr(job, option):
        return "class"
    return "DEFAULTS" if get_settings().defaults[option] != DEFAULTS[option] else "default"


def _value(job: type, name: str, option: str) -> Any:
    given = configured(name)
    if option in given:
        return given[option]
    if not hasattr(job, option):
        return get_settings().defaults[option]
    value = getattr(job, option)
    return "computed" if is_computed(option, value) else clean_option(name, option, value)


class List(Subcommand):
    """Name the jobs with their options."""

    name = "list"
    help = "list the jobs with their options and where each option comes from"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="write JSON")
        parser.add_argument(
            "--all", action="store_true", help="every option, not only ttl, grace and what is set"
        )

    def run(self, command: BaseCommand, options: Mapping[str, Any]) -> None:
        rows = {name: self._describe(name, job, options["all"]) for name, job in _listed()}
        if options["json"]:
            command.stdout.write(json.dumps(rows, indent=2, default=str))
            return
        if not rows:
            command.stdout.write("No job is loaded. Define one in the `jobs` module of an app.")
        for name, given in rows.items():
            command.stdout.write(command.style.MIGRATE_LABEL(name))
            for option, (value, source) in given.items():
                command.stdout.write(f"  {option} = {value!r} ({source})")

    @staticmethod
    def _describe(name: str, job: type, everything: bool) -> dict[str, tuple[Any, str]]:
        described = {}
        for option in DEFAULTS:
            source = _source(job, name, option)
            if everything or source != "default" or option in {"ttl", "grace"}:
                described[option] = (_value(job, name, option), source)
        return described


def _listed() -> list[tuple[str, type]]:
    """Return the jobs by name, and those that ``JOBS`` names for a model."""
    jobs = dict(all_jobs())
    listed: dict[str, type] = dict(jobs)
    for name in get_settings().jobs:
        base, colon, _ = name.partition(":")
        if colon and base in jobs:
            listed[name] = jobs[base]
    return sorted(listed.items())


class _OnJob(Subcommand):
    """A subcommand that makes a job from its name."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "job", help="the job's name; async_cache.QuerySetGetJob:auth.User for one of a model"
        )
        parser.add_argument(
            "--init", metavar="JSON", help="arguments of the job's constructor: a JSON list"
        )

    @staticmethod
    def job(options: Mapping[str, Any]) -> Any:
        given = options["init"]
        arguments = [] if given is None else parse_json("--init", given)
        if not isinstance(arguments, list):
            raise CommandError("--init must be a JSON list.")
        return make_job(options["job"], arguments)


class _OnCall(_OnJob):
    """A subcommand that calls the verb of its name with the arguments of one call.

    Attributes:
        done: What is written afterwards.
    """

    done: ClassVar[str] = ""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("arguments", nargs="*", metavar="argument", help=_CALL_HELP)
        parser.add_argument(
            "--args",
            dest="call",
            metavar="JSON",
            help="the call as a JSON list or an object of keywords",
        )

    def run(self, command: BaseCommand, options: Mapping[str, Any]) -> None:
        self.call(options, self.name)
        command.stdout.write(self.done)

    def call(self, options: Mapping[str, Any], verb: str) -> Any:
        """Return what the verb returns."""
        job = self.job(options)
        args, kwargs = parse_call(options["arguments"], options["call"])
        try:
            inspect.signature(job.fetch).bind(*args, **kwargs)
        except TypeError as error:
            raise CommandError(f"{options['job']}: {error}. {_CALL_HINT}") from error
        return getattr(job, verb)(*args, **kwargs)


class Explain(_OnCall):
    """Tell what is stored for a call."""

    name = "explain"
    help = "tell what is stored for a call: state, age, why it is stale, who refreshes it"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--json", action="store_true", help="write JSON")

    def run(self, command: BaseCommand, options: Mapping[str, Any]) -> None:
        told = self.call(options, "explain")
        rows = {field.name: _plain(getattr(told, field.name)) for field in dataclasses.fields(told)}
        if options["json"]:
            command.stdout.write(json.dumps(rows, indent=2, default=str))
            return
        width = max(map(len, rows))
        for name, value in rows.items():
            shown = ", ".join(value) if isinstance(value, list) else value
            command.stdout.write(f"{name:<{width}}  {shown}")


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    return list(value) if isinstance(value, tuple) else value


class Refresh(_OnCall):
    """Fetch and store a call's value."""

    name = "refresh"
    help = "fetch a call's value now and store it"
    done = "refreshed"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--later", action="store_true", help="hand it to a worker, and write the task's id"
        )

    def run(self, command: BaseCommand, options: Mapping[str, Any]) -> None:
        if not options["later"]:
            try:
                self.call(options, "refresh")
            except (ObjectDoesNotExist, MultipleObjectsReturned) as answer:
                command.stdout.write(f"{self.done}: the answer is {type(answer).__qualname__}")
            else:
                command.stdout.write(self.done)
            return
        handle = self.call(options, "refresh_later")
        state = "in flight already" if handle.coalesced else "dispatched"
        command.stdout.write(f"{state}: {handle.task_id}")


class Invalidate(_OnCall):
    """Make a call's value, or all that carries a tag, stale."""

    name = "invalidate"
    help = "make a call's value stale: still served, and refreshed by the next read"
    done = "invalidated"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--tags", action="store_true", help="the words are not a job and a call, but tags"
        )

    def run(self, command: BaseCommand, options: Mapping[str, Any]) -> None:
        if not options["tags"]:
            super().run(command, options)
            return
        invalidate_tags(options["job"], *options["arguments"])
        command.stdout.write(self.done)


class Delete(_OnCall):
    """Remove a call's value."""

    name = "delete"
    help = "remove a call's value: the next read fetches"
    done = "deleted"


class Clear(_OnJob):
    """Remove all values of a job."""

    name = "clear"
    help = "remove all values of a job, whatever their arguments"

    def run(self, command: BaseCommand, options: Mapping[str, Any]) -> None:
        self.job(options).clear()
        command.stdout.write("cleared")


SUBCOMMANDS: Final[tuple[Subcommand, ...]] = (
    List(),
    Explain(),
    Refresh(),
    Invalidate(),
    Delete(),
    Clear(),
)
