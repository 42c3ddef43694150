"""Workers and tasks in the admin: to look at, and to act on with permissions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db import models
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from async_cache.listing import ChoiceFilter, ReadOnlyAdmin
from async_cache.monitor.control import (
    KNOWN_STATES,
    READY_STATES,
    NotSent,
    is_rate,
    limit_rate,
    revoke,
)
from async_cache.monitor.models import TaskState, WorkerState

__all__ = ["RateForm", "TaskStateAdmin", "WorkerStateAdmin"]

MAX_TASKS: Final = 1_000
"""Tasks that are acted upon at once: their ids travel in one message, which workers keep."""
MAX_NAMES: Final = 50
"""Names of tasks of which the rate is limited at once."""


class StateFilter(ChoiceFilter):
    """The states that Celery has."""

    title = "state"
    parameter_name = "state"
    choices_known = KNOWN_STATES


class RateForm(forms.Form):
    """Asks for a rate."""

    rate = forms.CharField(
        max_length=24,
        help_text="10/m is ten a minute; s, m or h. It holds for each worker. 0 ends a limit.",
    )

    def clean_rate(self) -> str:
        """Return the rate."""
        rate = str(self.cleaned_data["rate"]).strip()
        if not is_rate(rate):
            raise forms.ValidationError("Give a rate such as 10/m, or 0.")
        return rate


class _Seen(ReadOnlyAdmin):
    """Rows that the camera writes, and deletes when they are old."""

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Say no: the settings say how long rows are kept."""
        return False


@admin.register(WorkerState)
class WorkerStateAdmin(_Seen):
    """Workers."""

    list_display = ("hostname", "alive", "last_heartbeat")
    search_fields = ("hostname",)
    search_prefixes = ("hostname",)
    search_help_text = "The beginning of a worker's name"
    readonly_fields = ("alive",)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return what is known of a worker."""
        return ["hostname", "alive", "last_heartbeat"]

    @admin.display(boolean=True, description="alive")
    def alive(self, row: WorkerState) -> bool:
        """Tell whether it has lately been heard of."""
        return row.is_alive()


@admin.register(TaskState)
class TaskStateAdmin(_Seen):
    """Tasks, with actions for who has their permissions."""

    list_display = ("task_id", "name", "state", "worker", "tstamp", "took")
    list_filter = (StateFilter, "tstamp")
    list_select_related = ("worker",)
    sortable_by = ("tstamp",)
    search_fields = ("task_id", "name")
    search_prefixes = ("task_id", "name")
    search_help_text = "The beginning of a task's id or name"
    large = ("args", "kwargs", "result", "traceback")
    actions = ("revoke", "terminate", "rate_limit")
    fieldsets = (
        (None, {"fields": ("task_id", "name", "state", "worker", "retries")}),
        ("Call", {"fields": ("args", "kwargs", "eta", "expires")}),
        ("Outcome", {"fields": ("tstamp", "runtime", "result", "traceback")}),
    )

    @admin.display(description="execution time")
    def took(self, row: TaskState) -> str:
        """Return how long it ran."""
        return "" if row.runtime is None else f"{row.runtime:.3g} s"

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        """Whether the user may have tasks not begun."""
        return _may(request, "revoke_taskstate")

    def has_terminate_permission(self, request: HttpRequest) -> bool:
        """Whether the user may end running tasks."""
        return _may(request, "terminate_taskstate")

    def has_rate_limit_permission(self, request: HttpRequest) -> bool:
        """Whether the user may limit how often tasks begin."""
        return _may(request, "rate_limit_taskstate")

    @admin.action(permissions=["revoke"], description="Revoke the selected tasks")
    def revoke(self, request: HttpRequest, queryset: models.QuerySet[TaskState]) -> None:
        """Have workers not begin the tasks."""
        self._end(request, queryset, "not to begin", terminate=False)

    @admin.action(permissions=["terminate"], description="Terminate the selected tasks")
    def terminate(self, request: HttpRequest, queryset: models.QuerySet[TaskState]) -> None:
        """Have workers not begin the tasks, and end the processes that run them."""
        self._end(request, queryset, "to end", terminate=True)

    @admin.action(
        permissions=["rate_limit"], description="Limit the rate of the selected tasks' names"
    )
    def rate_limit(
        self, request: HttpRequest, queryset: models.QuerySet[TaskState]
    ) -> HttpResponse | None:
        """Ask for a rate, then tell the workers."""
        found = queryset.exclude(name=None).order_by().values_list("name", flat=True)
        names = sorted(str(name) for name in found.distinct()[:MAX_NAMES])
        if not names:
            self.message_user(request, "No name of theirs is known.", messages.WARNING)
            return None
        asked = "rate" in request.POST
        form = RateForm(request.POST if asked else None)
        if asked and form.is_valid():
            rate = form.cleaned_data["rate"]
            told = f"Told the workers: {', '.join(names)} at {rate} at most."
            if rate == "0":
                told = f"Told the workers: {', '.join(names)} without a limit."
            self._send(request, lambda: limit_rate(names, rate), told)
            return None
        request.current_app = self.admin_site.name
        context = {
            **self.admin_site.each_context(request),
            "title": "Limit the rate of tasks",
            "opts": self.model._meta,
            "form": form,
            "names": names,
            "chosen": request.POST.getlist(ACTION_CHECKBOX_NAME),
            "checkbox": ACTION_CHECKBOX_NAME,
            "across": request.POST.get("select_across", "0"),
        }
        template = "admin/async_cache_monitor/taskstate/rate_limit.html"
        return TemplateResponse(request, template, context)

    def _end(
        self,
        request: HttpRequest,
        queryset: models.QuerySet[TaskState],
        what: str,
        *,
        terminate: bool,
    ) -> None:
        waiting = queryset.exclude(state__in=READY_STATES).order_by()
        ids = list(waiting.values_list("task_id", flat=True)[: MAX_TASKS + 1])
        if len(ids) > MAX_TASKS:
            self.message_user(request, f"Choose {MAX_TASKS} tasks at most.", messages.ERROR)
            return
        if not ids:
            self.message_user(request, "All of them have ended.", messages.WARNING)
            return
        told = f"Told the workers {what} {len(ids)} tasks."
        self._send(request, lambda: revoke(ids, terminate=terminate), told)

    def _send(self, request: HttpRequest, send: Callable[[], None], told: str) -> None:
        try:
            send()
        except NotSent as error:
            self.message_user(request, str(error), messages.ERROR)
        else:
            self.message_user(request, told, messages.SUCCESS)


def _may(request: HttpRequest, name: str) -> bool:
    user: Any = request.user
    return bool(user.has_perm(f"async_cache_monitor.{name}"))
