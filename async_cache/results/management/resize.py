"""``manage.py async_cache resize_task_id``: alter existing columns to the length set."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from django.apps import apps
from django.core.management.base import BaseCommand, CommandError
from django.db import connections, models, router
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.functions import Length

from async_cache.management.subcommands import Subcommand
from async_cache.results.rows import LENGTH_SETTING, IdField, id_length

__all__ = ["ResizeTaskId"]


class ResizeTaskId(Subcommand):
    """Alter the columns of ids and names to the length that the setting says."""

    name = "resize_task_id"
    help = f"alter the columns of ids and names to the length that {LENGTH_SETTING} says"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument(
            "--database",
            metavar="ALIAS",
            choices=tuple(connections),
            help="else the routers decide",
        )
        parser.add_argument("--dry-run", action="store_true", help="only say what would change")

    def run(self, command: BaseCommand, options: Mapping[str, Any]) -> None:
        """Alter each column whose length differs."""
        length, altered = id_length(), 0
        for model, field, connection in _columns(options["database"]):
            present = _length(connection, model, field)
            if present == length:
                continue
            if present is None or length < present:
                _refuse_cut(model, field, connection, length)
            altered += 1
            command.stdout.write(f"{model._meta.db_table}.{field.column}: {present} to {length}")
            if not options["dry_run"]:
                before, after = _sized(model, field, present), _sized(model, field, length)
                with connection.schema_editor() as editor:
                    editor.alter_field(model, before, after)
        if not altered:
            command.stdout.write(f"All columns have {length} characters.")


def _columns(using: str | None) -> Iterator[tuple[type[models.Model], Any, BaseDatabaseWrapper]]:
    for model in apps.get_app_config("async_cache_results").get_models():
        if model._meta.proxy:
            continue
        connection = connections[using or router.db_for_write(model)]
        for field in model._meta.local_concrete_fields:
            if isinstance(field, IdField):
                yield model, field, connection


class _Sized(IdField):
    """A field of the length given, which Django compares."""

    def __init__(self, *args: Any, length: int | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.max_length = length

    def deconstruct(self) -> Any:
        name, path, args, kwargs = super().deconstruct()
        return name, path, args, {**kwargs, "length": self.max_length}


def _sized(model: type[models.Model], field: Any, length: int | None) -> Any:
    _, _, args, kwargs = field.deconstruct()
    sized: Any = _Sized(*args, length=length, **kwargs)
    sized.set_attributes_from_name(field.name)
    sized.model = model
    return sized


def _length(connection: BaseDatabaseWrapper, model: type[models.Model], field: Any) -> int | None:
    table = model._meta.db_table
    with connection.cursor() as cursor:
        if table not in connection.introspection.table_names(cursor):
            raise CommandError(f"There is no table {table}. Run `manage.py migrate` first.")
        for column in connection.introspection.get_table_description(cursor, table):
            if column.name == field.column:
                size = column.display_size or column.internal_size
                return int(size) if size else None
    raise CommandError(f"{table} has no column {field.column}. Run `manage.py migrate` first.")


def _refuse_cut(
    model: type[models.Model], field: Any, connection: BaseDatabaseWrapper, length: int
) -> None:
    rows = model._base_manager.using(connection.alias).annotate(size=Length(field.name))
    longer = rows.filter(size__gt=length).count()
    if longer:
        raise CommandError(
            f"{longer} rows of {model._meta.db_table} have a {field.name} longer than {length} "
            f"characters. Purge them first, or set {LENGTH_SETTING} higher."
        )
