"""The page that shows a result group filling."""

from __future__ import annotations

import secrets
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST
from kombu.exceptions import OperationalError

from async_cache import DispatchFailed, StoreUnavailable
from async_cache.results import async_task, count_group, delete_group, fetch_group, result_group

from .flights import largest_countries, longest_flight
from .tasks import sum_up

CALLS = 40
MOST = 100
FAILING = 10  # one call in so many


@require_GET
@never_cache
def group(request: HttpRequest, group: str = "", size: int = CALLS) -> HttpResponse:
    """Show a group, or how to start one."""
    if not 1 <= size <= MOST:
        raise Http404("a group of this page has 1 to 100 members")
    context = {
        "group": group,
        "size": size,
        "most": MOST,
        "countries": largest_countries(size),
        "summary": request.GET.get("summary", ""),
    }
    return render(request, "airports/group.html", context)


@require_POST
def start(request: HttpRequest) -> HttpResponse:
    """Call `longest_flight` in the worker, once for each country. All calls have one label."""
    try:
        countries = largest_countries(min(max(int(request.POST.get("size", CALLS)), 1), MOST))
    except ValueError:
        messages.error(request, "The number of countries is a number.")
        return redirect("airports:groups")
    label = f"flights-{secrets.token_hex(3)}"
    try:
        for number, country in enumerate(countries, 1):
            fails = number % FAILING == 0
            async_task(longest_flight, country.code, fails, group=label, task_name=country.name)
    except (StoreUnavailable, DispatchFailed) as error:
        messages.error(request, f"Not all calls were sent: {error}")
    return redirect("airports:group", label, len(countries))


@require_GET
@never_cache
def group_json(request: HttpRequest, group: str, size: int) -> JsonResponse:
    """Return what the page shows of a group, for its script."""
    try:
        tasks = fetch_group(group)  # those that ended, in call order
        ended, failed = count_group(group), count_group(group, failures=True)
        longest = max(result_group(group), default=None)  # of the successes
    except StoreUnavailable as error:
        return JsonResponse({"error": str(error)}, status=503)
    members = [member(task) for task in tasks]
    begun = min((task.date_created for task in tasks), default=None)
    last = max((task.date_finished for task in tasks if task.date_finished), default=None)
    now = timezone.now() if ended < size else last
    return JsonResponse(
        {
            "ended": ended,
            "failed": failed,
            "longest": longest,
            "seconds": (now - begun).total_seconds() if begun and now else None,
            "members": members,
        }
    )


def member(task: Any) -> dict[str, Any]:
    """Return what the page shows of one call. `task.result` is the value, or the exception."""
    return {
        "name": task.task_name,
        "success": task.success,
        "value": list(task.result) if task.success else None,
        "error": "" if task.success else f"{type(task.result).__name__}: {task.result}",
        "seconds": (task.date_finished - task.date_started).total_seconds(),
        "worker": task.worker,
    }


@require_POST
def delete(request: HttpRequest, group: str) -> HttpResponse:
    """Drop the group; its members' rows stay unless told otherwise."""
    tasks = "tasks" in request.POST
    number = delete_group(group, tasks)
    rows = "their rows are deleted too" if tasks else "their rows stay, see the admin"
    said = f"The group {group} is deleted. It had {number} members; {rows}."
    if request.headers.get("Accept") == "application/json":
        return JsonResponse({"said": said, "members": number})
    messages.info(request, said)
    return redirect("airports:groups")


@require_POST
def summary(request: HttpRequest, group: str, size: int) -> HttpResponse:
    """Start the Celery task, whose result is a row."""
    try:
        task_id = sum_up.delay(group).id
    except OperationalError as error:
        messages.error(request, f"The task was not sent: {error}")
        return redirect("airports:group", group, size)
    return redirect(f"{reverse('airports:group', args=(group, size))}?summary={task_id}")


def anyone(request: HttpRequest, name: str) -> bool:
    """Permit the status views to everybody: `VIEW_PERMISSION` of this demo, and of no other."""
    return True
