"""The results in the admin: to look at, and to act on with permissions."""

from __future__ import annotations

import json
from typing import Any, Final

from django.conf import settings
from django.contrib import admin, messages
from django.db import models
from django.http import HttpRequest

from async_cache.control import NotSent, connected
from async_cache.listing import ChoiceFilter, ReadOnlyAdmin
from async_cache.results.control import send_again, terminate
from async_cache.results.exceptions import RecordRejected
from async_cache.results.models import GroupResult, TaskResult
from async_cache.results.records import READY_STATES, STATES, SUCCESS
from async_cache.results.views import MAX_TEXT, described

__all__ = ["GroupResultAdmin", "TaskResultAdmin"]

REASONS: Final = 20
"""Tasks of which it is told why they were not sent; the others are counted."""

_CALL: Final = ("periodic_task_name", "group", "sequence")
_TIMES: Final = ("date_created", "date_queued", "date_started", "date_finished", "date_done")
_STORED: Final = ("result", "content_type", "content_encoding", "meta", "rank", "hidden")


class StateFilter(ChoiceFilter):
    """The states that Celery has."""

    title = "state"
    parameter_name = "status"
    choices_known = STATES


class _ReadOnly(ReadOnlyAdmin):
    """Shows rows; changes none unless ``DJANGO_CELERY_RESULTS["ALLOW_EDITS"]`` says so."""

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Rows are written by tasks, and by hand where the setting allows it."""
        allowed = getattr(settings, "DJANGO_CELERY_RESULTS", {}).get("ALLOW_EDITS", False)
        return bool(allowed) and admin.ModelAdmin.has_change_permission(self, request, obj)


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
    large = ("result", "traceback", "meta", "task_args", "task_kwargs")
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
    large = ("result",)


def _may(request: HttpRequest, name: str) -> bool:
    user: Any = request.user
    return bool(user.has_perm(f"async_cache_results.{name}"))
