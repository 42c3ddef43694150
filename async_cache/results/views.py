"""JSON views of states and results, behind a permission.

Their names and answers are those of django-celery-results. An unknown id is PENDING, or a group
without members: no error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import wraps
from itertools import islice
from typing import Any, Final

from django.core.serializers.json import DjangoJSONEncoder
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.module_loading import import_string
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from async_cache.exceptions import StoreUnavailable
from async_cache.results.codec import decode_error, decode_value
from async_cache.results.conf import get_results_settings
from async_cache.results.exceptions import RecordRejected, TaskFailed
from async_cache.results.layers import get_cache_layer, get_database_layer, get_layer
from async_cache.results.models import GroupResult
from async_cache.results.records import FAILURE, NO_RECORD, PENDING, RETRY, REVOKED, Record

__all__ = [
    "described",
    "group_status",
    "is_group_successful",
    "is_task_successful",
    "staff_only",
    "task_status",
]

MAX_MEMBERS: Final = 10_000
"""Members of one answer."""
MAX_TEXT: Final = 10_000
"""Characters of a value that JSON cannot hold."""
_ERRORS: Final = frozenset({FAILURE, RETRY, REVOKED})


def staff_only(request: HttpRequest, _id: str) -> bool:
    """Permit active staff; the default of ``VIEW_PERMISSION``."""
    user = getattr(request, "user", None)
    return bool(user is not None and user.is_active and getattr(user, "is_staff", False))


def _guarded(
    view: Callable[[HttpRequest, str], JsonResponse],
) -> Callable[..., HttpResponse]:
    """Ask the permission; answer what failed as JSON."""

    @never_cache
    @require_safe
    @wraps(view)
    def guarded(request: HttpRequest, /, *args: Any, **kwargs: Any) -> HttpResponse:
        (name,) = (*args, *kwargs.values())
        permitted = get_results_settings().view_permission
        if isinstance(permitted, str):
            permitted = import_string(permitted)
        if not (staff_only if permitted is None else permitted)(request, name):
            return JsonResponse({"error": "forbidden"}, status=403)
        if "\x00" in name:
            # No database can look for it.
            return JsonResponse({"error": "bad id"}, status=400)
        try:
            return view(request, name)
        except StoreUnavailable:
            return JsonResponse({"error": "the store of results does not answer"}, status=503)

    return guarded


@_guarded
def is_task_successful(request: HttpRequest, task_id: str) -> JsonResponse:
    """Tell whether a task has ended well."""
    return JsonResponse({"task": {"id": task_id, "executed": _find(task_id).successful}})


@_guarded
def task_status(request: HttpRequest, task_id: str) -> JsonResponse:
    """Tell a task's state and its value, or its error."""
    return JsonResponse({"task": {"id": task_id, **described(_find(task_id))}})


@_guarded
def is_group_successful(request: HttpRequest, group_id: str) -> JsonResponse:
    """Tell of each member of a group whether it has ended well."""
    members = [{"id": one.id, "executed": one.successful} for one in _members(group_id)]
    return JsonResponse({"group": {"id": group_id, "results": members}})


@_guarded
def group_status(request: HttpRequest, group_id: str) -> JsonResponse:
    """Tell the state and the value, or the error, of each member of a group."""
    members = [{"id": one.id, **described(one)} for one in _members(group_id)]
    return JsonResponse({"group": {"id": group_id, "results": members}})


def _find(task_id: str) -> Record:
    first = get_layer()
    found = first.get(task_id)
    if found is NO_RECORD:
        database = get_database_layer()
        found = (get_cache_layer() if first is database else database).get(task_id)
    return Record(task_id) if found is NO_RECORD else found


def _members(group_id: str) -> list[Record]:
    """Return the members of a result group, or of one that a backend has saved."""
    first = get_layer()
    members = first.group(group_id)
    if not members:
        database = get_database_layer()
        members = (get_cache_layer() if first is database else database).group(group_id)
    if not members:
        row = GroupResult.objects.filter(group_id=group_id).first()
        saved = _saved_ids(row) if row is not None else ()
        ids = list(dict.fromkeys(islice(saved, MAX_MEMBERS)))
        found = get_database_layer().get_many(ids)
        if NO_RECORD in found:
            others = get_cache_layer().get_many(ids)
            found = [
                other if one is NO_RECORD else one for one, other in zip(found, others, strict=True)
            ]
        members = [
            Record(task_id) if one is NO_RECORD else one
            for task_id, one in zip(ids, found, strict=True)
        ]
    return members[:MAX_MEMBERS]


def _saved_ids(row: GroupResult) -> Iterator[str]:
    """Yield the ids in what Celery calls a result's tuple: ``[[id, parent], members]``."""
    try:
        waiting = [json.loads(row.result or "null")]
    except ValueError:
        return
    while waiting:
        match waiting.pop(0):
            case [[str(task_id), *_], None]:
                yield task_id
            case [[_, *_], list(members)]:
                waiting = members + waiting
            case [str(task_id), *_]:
                yield task_id


def described(record: Record) -> dict[str, Any]:
    """Return the state of a task and its value or error, as JSON can hold them."""
    if record.state == PENDING:
        return {"status": record.state, "result": None}
    described: dict[str, Any] = {"status": record.state, "result": None}
    try:
        if record.state in _ERRORS:
            error = decode_error(record)
            kind = type(error)
            name = f"{kind.__module__}.{kind.__qualname__}"
            described["exc"] = error.error_type if isinstance(error, TaskFailed) else name
            described["result"] = error.text if isinstance(error, TaskFailed) else str(error)
            described["traceback"] = record.traceback or None
        elif record.value:
            described["result"] = _plain(decode_value(record))
    except RecordRejected as error:
        described["unreadable"] = str(error)
    return described


def _plain(value: object) -> object:
    """Return the value as JSON shows it; as text where JSON cannot."""
    try:
        return json.loads(json.dumps(value, cls=DjangoJSONEncoder, allow_nan=False))
    except (TypeError, ValueError, OverflowError, RecursionError):
        try:
            return repr(value)[:MAX_TEXT]
        except Exception as error:  # noqa: BLE001 - the project's own __repr__
            return f"(its text cannot be had: {type(error).__qualname__})"
