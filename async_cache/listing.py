"""Admin lists of tables that grow without end: light rows, few counts, searches by an index."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db import connections, models
from django.http import HttpRequest
from django.utils.functional import cached_property

if TYPE_CHECKING:
    _Paginator = Paginator[Any]
    _ModelAdmin = admin.ModelAdmin[Any]
else:
    _Paginator, _ModelAdmin = Paginator, admin.ModelAdmin

__all__ = ["ChoiceFilter", "EstimatingPaginator", "LightList", "ReadOnlyAdmin", "by_prefix"]

EXACT: Final = 10_000
"""Rows that are counted one by one; of more the planner's estimate is shown."""


class EstimatingPaginator(_Paginator):
    """Counts few rows exactly, and asks the planner how many rows there are of more."""

    @cached_property
    def count(self) -> int:
        """The number of rows, or about that."""
        rows: Any = self.object_list
        if not isinstance(rows, models.QuerySet):
            return len(rows)
        rows = rows.order_by()
        some = rows[: EXACT + 1].count()
        if some <= EXACT:
            return int(some)
        about = _estimated(rows)
        return int(rows.count()) if about is None else max(EXACT + 1, about)


def _estimated(rows: models.QuerySet[Any]) -> int | None:
    """Ask the planner how many rows there are; None where it does not tell."""
    vendor = connections[rows.db].vendor
    if vendor not in {"postgresql", "mysql"}:
        return None
    plan = json.loads(rows.select_related(None).only("pk").explain(format="json"))
    if vendor == "postgresql":
        return int(plan[0]["Plan"]["Plan Rows"])
    # Django gives the text as JSON once more. MariaDB has a list around the table from 10.10 on.
    block = (json.loads(plan) if isinstance(plan, str) else plan).get("query_block", {})
    table = block.get("table") or block.get("nested_loop", [{}])[0].get("table", {})
    number = table.get("rows", table.get("rows_examined_per_scan"))
    return None if number is None else round(number * float(table.get("filtered", 100)) / 100)


class LightList(ChangeList):
    """Leaves the large columns where they are."""

    def get_queryset(self, *args: Any, **kwargs: Any) -> models.QuerySet[Any]:
        """Return the rows without what the list does not show."""
        rows = super().get_queryset(*args, **kwargs)
        large: Sequence[str] = getattr(self.model_admin, "large", ())
        return rows.defer(*large)


def by_prefix(using: str, field: str, text: str) -> models.Q:
    """Return a condition that an index on the field answers: it begins with the text."""
    vendor = connections[using].vendor
    if vendor == "sqlite":
        # LIKE compares without case there, which no index does.
        return models.Q(**{f"{field}__gte": text, f"{field}__lt": text + chr(0x10FFFF)})
    if vendor == "mysql":
        return models.Q(**{f"{field}__istartswith": text})
    return models.Q(**{f"{field}__startswith": text})


class ChoiceFilter(admin.SimpleListFilter):
    """Known values of a column, without asking the table for its own.

    Attributes:
        parameter_name: The column.
        choices_known: What to offer.
    """

    choices_known: ClassVar[Sequence[str]] = ()

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, str]]:
        """Return the choices."""
        return [(choice, choice) for choice in self.choices_known]

    def queryset(self, request: Any, queryset: models.QuerySet[Any]) -> models.QuerySet[Any]:
        """Return the rows with the chosen value; any value can be given in the URL."""
        value = self.value()
        return queryset if value is None else queryset.filter(**{str(self.parameter_name): value})


class ReadOnlyAdmin(_ModelAdmin):
    """Shows rows that others write.

    Attributes:
        large: Columns that the list does not read.
        search_prefixes: Columns with an index, of which a search compares the beginning.
        editable: Columns that may be changed where a subclass permits changes.
    """

    paginator = EstimatingPaginator
    show_full_result_count = False
    # Counts of all states would read the whole table.
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50
    large: ClassVar[Sequence[str]] = ()
    search_prefixes: ClassVar[tuple[str, ...]] = ()
    editable: ClassVar[frozenset[str]] = frozenset()

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """Return the list without large columns."""
        return LightList

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Rows are written by others."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Rows are written by others."""
        return False

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return all columns, in their order."""
        return [field.name for field in self.model._meta.concrete_fields]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return the columns that are never edited: all of them as a rule."""
        names = [field.name for field in self.model._meta.concrete_fields]
        return [*self.readonly_fields, *(name for name in names if name not in self.editable)]

    def get_search_results(
        self, request: HttpRequest, queryset: models.QuerySet[Any], search_term: str
    ) -> tuple[models.QuerySet[Any], bool]:
        """Return the rows of which a field begins with the term; none twice."""
        term = search_term.strip().replace("\x00", "")
        if term:
            found = models.Q()
            for field in self.search_prefixes:
                found |= by_prefix(queryset.db, field, term)
            queryset = queryset.filter(found)
        return queryset, False
