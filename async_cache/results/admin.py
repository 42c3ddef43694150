"""The results in the admin: to look at, and to act on with permissions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar, Final

from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db import connections, models
from django.http import HttpRequest
from django.utils.functional import cached_property

from async_cache.results.control import NotSent, connected, send_again, terminate
from async_cache.results.exceptions import RecordRejected
from async_cache.results.models import GroupResult, TaskResult
from async_cache.results.records import READY_STATES, STATES, SUCCESS
from async_cache.results.views import MAX_TEXT, described

if TYPE_CHECKING:
    _Paginator = Paginator[Any]
    _ModelAdmin = admin.ModelAdmin[Any]
else:
    _Paginator, _ModelAdmin = Paginator, admin.ModelAdmin

__all__ = ["EstimatingPaginator", "GroupResultAdmin", "TaskResultAdmin"]

EXACT: Final = 10_000
"""Rows that are counted one by one; of more the planner's estimate is shown."""

REASONS: Final = 20
"""Tasks of which it is told why they were not sent; the others are counted."""

_CALL: Final = ("periodic_task_name", "group", "sequence")
_TIMES: Final = ("date_created", "date_queued", "date_started", "date_finished", "date_done")
_STORED: Final = ("result", "content_type", "content_encoding", "meta", "rank", "hidden")
_LARGE: Final = ("result", "traceback", "meta", "task_args", "task_kwargs")


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
    plan = json.loads(rows.only("pk").explain(format="json"))
    if vendor == "postgresql":
        return int(plan[0]["Plan"]["Plan Rows"])
    # Django gives the text as JSON once more. MariaDB has a list around the table from 10.10 on.
    block = (json.loads(plan) if isinstance(plan, str) else plan).get("query_block", {})
    table = block.get("table") or block.get("nested_loop", [{}])[0].get("table", {})
    number = table.get("rows", table.get("rows_examined_per_scan"))
    return None if number is None else round(number * float(table.get("filtered", 100)) / 100)


class _LightList(ChangeList):
    """Leaves the large columns where they are."""

    def get_queryset(self, *args: Any, **kwargs: Any) -> models.QuerySet[Any]:
        """Return the rows without what the list does not show."""
        names = {field.name for field in self.model._meta.concrete_fields}
        rows = super().get_queryset(*args, **kwargs)
        return rows.defer(*(name for name in _LARGE if name in names))


def by_prefix(using: str, field: str, text: str) -> models.Q:
    """Return a condition that an index on the field answers: it begins with the text."""
    vendor = connections[using].vendor
    if vendor == "sqlite":
        # LIKE compares without case there, which no index does.
        return models.Q(**{f"{field}__gte": text, f"{field}__lt": text + chr(0x10FFFF)})
    if vendor == "mysql":
        return models.Q(**{f"{field}__istartswith": text})
    return models.Q(**{f"{field}__startswith": text})


class StateFilter(admin.SimpleListFilter):
    """The states that Celery has, without asking the table for its own."""

    title = "state"
    parameter_name = "status"

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, str]]:
        """Return the choices."""
        return [(state, state) for state in STATES]

    def queryset(self, request: Any, queryset: models.QuerySet[Any]) -> models.QuerySet[Any]:
        """Return the rows of the chosen state; any state can be given in the URL."""
        state = self.value()
        return queryset if state is None else queryset.filter(status=state)


class _ReadOnly(_ModelAdmin):
    """Shows rows; changes none unless ``DJANGO_CELERY_RESULTS["ALLOW_EDITS"]`` says so."""

    paginator = EstimatingPaginator
    show_full_result_count = False
    # Counts of all states would read the whole table.
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50
    search_prefixes: ClassVar[tuple[str, ...]] = ()
    editable: ClassVar[frozenset[str]] = frozenset()

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """Return the list without large columns."""
        return _LightList

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Rows are written by tasks."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Rows are written by tasks, and by hand where the setting allows it."""
        allowed = getattr(settings, "DJANGO_CELERY_RESULTS", {}).get("ALLOW_EDITS", False)
        return bool(allowed) and super().has_change_permission(request, obj)

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


@admin.register(TaskResult)
class TaskResultAdmin(_ReadOnly):
    """Task results, with actions for who has their permissions."""

    list_display = (
        "task_id",
        "task_name",
        "status",
        "worker",
        "group",
        "date_done",
    )
    list_filter = (StateFilter, "date_done")
    search_fields = ("task_id", "task_name")
    search_prefixes = ("task_id", "task_name")
    search_help_text = "The beginning of a task's id or name"
    actions = ("forget", "retry", "terminate")
    readonly_fields = ("value",)
    fieldsets = (
        (None, {"fields": ("task_id", "task_name", "status", "retries", "worker")}),
        ("Call", {"fields": ("task_args", "task_kwargs", *_CALL)}),
        ("Times", {"fields": _TIMES}),
        ("Result", {"fields": ("value", "traceback")}),
        ("As stored", {"classes": ["collapse"], "fields": _STORED}),
    )
    editable = frozenset({"task_name", "task_args", "task_kwargs", "status", "worker", "traceback"})

    def get_actions(self, request: HttpRequest, action_location: Any = None) -> dict[str, Any]:
        """Return the actions that the user may do; `forget` does what Django's own does."""
        # Django has the argument from 6.1 on.
        given = {} if action_location is None else {"action_location": action_location}
        found: dict[str, Any] = dict(super().get_actions(request, **given))
        found.pop("delete_selected", None)
        return found

    def has_retry_permission(self, request: HttpRequest) -> bool:
        """Whether the user may send tasks again."""
        return _may(request, "retry_taskresult")

    def has_terminate_permission(self, request: HttpRequest) -> bool:
        """Whether the user may end running tasks."""
        return _may(request, "terminate_taskresult")

    @admin.display(description="Value")
    def value(self, row: TaskResult) -> str:
        """Return the text of what the task returned, or of its error."""
        try:
            shown = described(row.to_record())
        except RecordRejected as error:
            return f"It cannot be read: {error}"
        if "unreadable" in shown:
            return f"It cannot be read: {shown['unreadable']}"
        if "exc" in shown:
            return f"{shown['exc']}: {shown['result']}"
        if row.status != SUCCESS and shown["result"] is None:
            return ""
        return json.dumps(shown["result"], ensure_ascii=False, indent=2)[:MAX_TEXT]

    @admin.action(permissions=["delete"], description="Forget the selected results")
    def forget(self, request: HttpRequest, queryset: models.QuerySet[TaskResult]) -> None:
        """Delete the rows."""
        number = queryset.order_by().delete()[0]
        self.message_user(request, f"Forgot {number} results.", messages.SUCCESS)

    @admin.action(permissions=["retry"], description="Run the selected tasks again")
    def retry(self, request: HttpRequest, queryset: models.QuerySet[TaskResult]) -> None:
        """Send each task again that has ended."""
        sent, reasons = 0, []
        # With the arguments, which the list leaves out.
        rows = queryset.defer(None).defer("result", "traceback", "meta")
        try:
            with connected() as connection:
                for row in rows.iterator():
                    try:
                        if row.status not in READY_STATES:
                            raise NotSent(f"{row.task_id} has not ended.")
                        send_again(row, connection)
                        sent += 1
                    except NotSent as error:
                        reasons.append(str(error))
        except NotSent as error:
            reasons.insert(0, str(error))
        for reason in reasons[:REASONS]:
            self.message_user(request, reason, messages.ERROR)
        if len(reasons) > REASONS:
            rest = f"{len(reasons) - REASONS} more were not sent."
            self.message_user(request, rest, messages.ERROR)
        if sent:
            self.message_user(request, f"Sent {sent} tasks again.", messages.SUCCESS)

    @admin.action(permissions=["terminate"], description="Terminate the selected tasks")
    def terminate(self, request: HttpRequest, queryset: models.QuerySet[TaskResult]) -> None:
        """Revoke the tasks that have not ended."""
        running = queryset.exclude(status__in=READY_STATES).order_by()
        ids = list(running.values_list("task_id", flat=True))
        if not ids:
            self.message_user(request, "None of them is running.", messages.WARNING)
            return
        try:
            terminate(ids)
        except NotSent as error:
            self.message_user(request, str(error), messages.ERROR)
        else:
            self.message_user(request, f"Told the workers to end {len(ids)} tasks.")


@admin.register(GroupResult)
class GroupResultAdmin(_ReadOnly):
    """Groups of Celery."""

    list_display = ("group_id", "date_created", "date_done")
    list_filter = ("date_done",)
    search_fields = ("group_id",)
    search_prefixes = ("group_id",)
    search_help_text = "The beginning of a group's id"


def _may(request: HttpRequest, name: str) -> bool:
    user: Any = request.user
    return bool(user.has_perm(f"async_cache_results.{name}"))
