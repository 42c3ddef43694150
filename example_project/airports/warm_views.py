"""The page of values that are kept warm by the clock."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from async_cache import MISSING, StoreUnavailable

from .jobs import HubWeather
from .models import Airport


@require_GET
@never_cache
def warm(request: HttpRequest) -> HttpResponse:
    """Show the weather at the largest airports."""
    codes = HubWeather.hubs
    values = HubWeather().get_many([(code,) for code in codes])
    names = dict(Airport.objects.filter(code__in=codes).values_list("code", "name"))
    rows = [
        {"code": code, "name": names.get(code, ""), "value": None if failed(value) else value}
        for code, value in zip(codes, values, strict=True)
    ]
    context = {"rows": rows, "ttl": HubWeather.ttl, "every": HubWeather.refresh_every}
    return render(request, "airports/warm.html", context)


def failed(value: object) -> bool:
    """Whether `get_many` has an exception in the place of a value."""
    return isinstance(value, Exception)


@require_GET
@never_cache
def warm_json(request: HttpRequest) -> JsonResponse:
    """Return how old each value is, without reading it: nothing but the clock asks for new ones."""
    try:
        rows = [state_of(code) for code in HubWeather.hubs]
    except StoreUnavailable as error:
        return JsonResponse({"error": str(error)}, status=503)
    return JsonResponse({"ttl": HubWeather.ttl, "every": HubWeather.refresh_every, "rows": rows})


def state_of(code: str) -> dict[str, Any]:
    """Return the state of one value, and the value."""
    job = HubWeather()
    state, value = job.explain(code), job.peek(code)
    return {
        "code": code,
        "state": state.status.name.lower(),
        "age": state.age,
        "refresh": state.refresh or "",
        "value": None if value is MISSING else value,
    }
