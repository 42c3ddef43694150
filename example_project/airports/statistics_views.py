"""The page of statistics: what all processes of the demo have counted."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from async_cache import StoreUnavailable
from async_cache.monitor import snapshot


@require_GET
@never_cache
def statistics(request: HttpRequest) -> HttpResponse:
    """Show the counts of each job."""
    try:
        rows = [one for name, one in snapshot().items() if name]
    except StoreUnavailable as error:
        return render(request, "airports/statistics.html", {"error": str(error)}, status=503)
    return render(request, "airports/statistics.html", {"rows": rows})
