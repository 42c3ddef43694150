"""A view that writes and reads in the transaction of its request."""

from __future__ import annotations

from django.http import HttpRequest, JsonResponse
from django.urls import path

from tests.app.models import Author


def names(request: HttpRequest) -> JsonResponse:
    from tests.jobs.test_transactions import Names

    Author.objects.using("postgres").create(name="from the view")
    found = Names().get()
    if "fail" in request.GET:
        raise RuntimeError("after the read")
    return JsonResponse(found, safe=False)


urlpatterns = [path("names/", names)]
