"""``manage.py async_cache import_results``: copy the tables of django-celery-results."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError
from django.db import connections, models
from django.db.backends.base.base import BaseDatabaseWrapper

from async_cache.exceptions import UnstorableValue
from async_cache.management.subcommands import Subcommand
from async_cache.results.management.purge import shown_progress
from async_cache.results.managers import GROUP_RULES, TASK_RULES
from async_cache.results.models import ChordCounter, GroupResult, TaskResult
from async_cache.results.pickles import PICKLE, seal
from async_cache.results.records import READY_STATES
from async_cache.results.rows import from_text, to_text
from async_cache.results.upsert import Rules, converted, upsert_many
from async_cache.results.utils import now

__all__ = ["ImportResults"]

PREFIX: Final = "django_celery_results_"
BATCH: Final = 1_000
_UNKNOWN: Final = ("group", "sequence", "date_queued")
_TASK_FIELDS: Final = (
    "task_id",
    "task_name",
    "periodic_task_name",
    "task_args",
    "task_kwargs",
    "status",
    "worker",
    "content_type",
    "content_encoding",
    "result",
    "traceback",
    "meta",
    "date_created",
    "date_started",
    "date_done",
)
_CHORD_RULES: Final = Rules(
    key="group_id", first=frozenset({"count", "ended", "sub_tasks", "date_created"})
)


class ImportResults(Subcommand):
    """Copy what django-celery-results has stored; rows that are here already stay."""

    name = "import_results"
    help = "copy the tables of django-celery-results; what is stored here already stays"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument(
            "--from-database",
            metavar="ALIAS",
            choices=tuple(connections),
            help="else the same as --database",
        )
        parser.add_argument(
            "--database",
            metavar="ALIAS",
            choices=tuple(connections),
            help="else the routers decide",
        )
        parser.add_argument("--batch", type=int, default=BATCH, help="rows of one statement")
        parser.add_argument(
            "--trust-pickle",
            action="store_true",
            help="seal pickled results: nobody but your own workers wrote to the tables",
        )

    def run(self, command: BaseCommand, options: Mapping[str, Any]) -> None:
        """Copy task results, groups and open chords."""
        if options["batch"] < 1:
            raise CommandError("--batch must be 1 or more.")
        target = options["database"] or TaskResult.objects.connection_for_write().alias
        source = connections[options["from_database"] or target]
        with source.cursor() as cursor:
            tables = set(source.introspection.table_names(cursor))
        if f"{PREFIX}taskresult" not in tables:
            raise CommandError(
                f"The database {source.alias!r} has no table {PREFIX}taskresult. "
                "Name the right one with --from-database."
            )
        trusted = options["trust_pickle"]
        kinds = ((_Tasks, TaskResult), (_Groups, GroupResult), (_Chords, ChordCounter))
        for kind, model in kinds:
            copy = kind(model, trusted)
            table = PREFIX + copy.model._meta.model_name  # type: ignore[operator]
            if table in tables:
                copy.run(command, source, table, target, options["batch"])


class _Copy:
    """Copies one table."""

    key: str
    rules: Rules
    fields: tuple[str, ...] | list[str]

    def __init__(self, model: type[models.Model], trusted: bool) -> None:
        self.model = model
        self._trusted = trusted

    def sealed(self, found: dict[str, Any], *names: str) -> dict[str, Any]:
        """Return a row with its pickles sealed, where they are trusted; nothing is unpickled."""
        if not self._trusted or found["content_type"] not in PICKLE:
            return found
        changed = {}
        for name in names:
            if found[name]:
                raw = from_text(found[name], found["content_encoding"])
                changed[name] = to_text(seal(raw), found["content_encoding"])
        return {**found, **changed}

    def row(self, found: dict[str, Any]) -> dict[str, Any] | None:
        """Return the row to write; None for one that is not worth it."""
        raise NotImplementedError

    def run(
        self,
        command: BaseCommand,
        source: BaseDatabaseWrapper,
        table: str,
        target: str,
        batch: int,
    ) -> None:
        """Copy all rows, batch by batch."""
        read = written = refused = 0
        show = shown_progress(command, f"{table}: read")
        for found in self.batches(source, table, batch):
            read += len(found)
            keys = [row[self.key] for row in found]
            here = self.model._base_manager.using(target).filter(**{f"{self.key}__in": keys})
            known = set(here.values_list(self.key, flat=True))
            rows = []
            for values in found:
                if values[self.key] not in known:
                    try:
                        row = self.row(values)
                    except UnstorableValue as error:
                        refused += 1
                        command.stderr.write(str(error))
                    else:
                        rows += [] if row is None else [row]
            written += len(upsert_many(self.model, target, self.rules, rows))
            if show is not None:
                show(read)
        if show is not None:
            command.stdout.write("")
        rest = f", {refused} do not fit" if refused else ""
        command.stdout.write(f"{table}: {written} of {read} rows copied{rest}.")

    def batches(
        self, source: BaseDatabaseWrapper, table: str, batch: int
    ) -> Iterator[list[dict[str, Any]]]:
        """Read the table by its primary key; older versions lack some columns."""
        quote = source.ops.quote_name
        with source.cursor() as cursor:
            described = source.introspection.get_table_description(cursor, table)
        present = {column.name for column in described}
        names = [name for name in self.fields if name in present]
        columns = ", ".join(quote(name) for name in ("id", *names))
        sql = (
            f"SELECT {columns} FROM {quote(table)} WHERE {quote('id')} > %s "
            f"ORDER BY {quote('id')} LIMIT {int(batch)}"
        )
        last = 0
        lacking = dict.fromkeys(set(self.fields) - present)
        while True:
            with source.cursor() as cursor:
                cursor.execute(sql, [last])
                raw = cursor.fetchall()
            if not raw:
                return
            last = raw[-1][0]
            values = converted(self.model, source, names, [row[1:] for row in raw])
            yield [lacking | dict(zip(names, row, strict=True)) for row in values]


class _Tasks(_Copy):
    key, rules, fields = "task_id", TASK_RULES, _TASK_FIELDS

    def row(self, found: dict[str, Any]) -> dict[str, Any] | None:
        found = self.sealed(found, "result", "meta")
        for name in ("task_args", "task_kwargs"):
            found[name] = _unquoted(found[name])
        saved = found["date_done"]
        ended = saved if found["status"] in READY_STATES else None
        unknown = dict.fromkeys(_UNKNOWN)
        made = TaskResult.objects.make_row(
            **{**found, **unknown, "retries": 0, "date_finished": ended}
        )
        made["date_created"] = found["date_created"] or saved or made["date_created"]
        made["date_done"] = saved or made["date_done"]
        return made


def _unquoted(text: str | None) -> str | None:
    """Return arguments as Celery writes them; django-celery-results keeps that text as JSON."""
    if text is None or not text.startswith('"'):
        return text
    try:
        inner = json.loads(text)
    except ValueError:
        return text
    return inner if isinstance(inner, str) else text


class _Groups(_Copy):
    key, rules = "group_id", GROUP_RULES
    fields = ("group_id", "date_created", "date_done", "content_type", "content_encoding", "result")

    def row(self, found: dict[str, Any]) -> dict[str, Any] | None:
        return self.sealed(found, "result")


class _Chords(_Copy):
    """Their counter holds the parts that are left, and no time.

    So those are all the parts here: one that was counted there, and is delivered again, counts.
    """

    key, rules, fields = "group_id", _CHORD_RULES, ("group_id", "sub_tasks", "count")

    def row(self, found: dict[str, Any]) -> dict[str, Any] | None:
        return {**found, "ended": 0, "date_created": now()} if found["count"] else None
