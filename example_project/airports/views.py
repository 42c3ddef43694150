"""The pages. Each does one or two cached reads and shows how they went."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from django.contrib import messages
from django.core.cache import cache
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from async_cache import DispatchFailed, StoreUnavailable

from .jobs import airport_by_code
from .models import Airport
from .reads import Answer, Read, UnknownRead, ask, ask_all, find_read, history
from .state import as_json, state_of
from .upstream import UpstreamRefused, control

FEATURED = ("AKL", "ATL", "CPT", "EZE", "HND", "KEF", "LHR", "SIN")
BOARD = ("AKL", "HND", "SIN", "CPT", "LHR", "EZE")
VERBS = {
    "invalidate": "{}: stale now, still served.",
    "delete": "{}: gone, the next read is a miss.",
    "clear": "{}: gone, and so is every other value of this job.",
    "refresh_later": "{}: a refresh is on its way to the worker.",
}


def read_or_404(kind: str, argument: str = "-") -> Read:
    """Return the read that an address names, or answer 404."""
    try:
        return find_read(kind, argument)
    except UnknownRead as error:
        raise Http404(f"no such read: {error}") from error


def panel(read: Read, answer: Answer) -> dict[str, Any]:
    """What the template of the read panel needs."""
    return {"read": read, "answer": answer, "history": history.of(read)}


def behaviour() -> dict[str, Any] | None:
    """How the weather service behaves now; None when it does not say."""
    try:
        return control()
    except UpstreamRefused:
        return None


@require_GET
def home(request: HttpRequest) -> HttpResponse:
    """Say what there is to see."""
    return render(request, "airports/home.html", {"featured": FEATURED})


@require_GET
@never_cache
def weather(request: HttpRequest, code: str) -> HttpResponse:
    """Show the weather at one airport: a read whose source takes seconds."""
    read = read_or_404("weather", code)
    answer = ask(read)  # in a project of your own: AirportWeather().get(code)
    context = {
        "panel": panel(read, answer),
        "reading": answer.value,
        "code": read.argument,
        "upstream": behaviour(),
        "featured": FEATURED,
        "web_pid": os.getpid(),
    }
    return render(request, "airports/weather.html", context)


@require_GET
@never_cache
def countries(request: HttpRequest) -> HttpResponse:
    """List the countries with their numbers of airports."""
    read = find_read("countries")
    answer = ask(read)
    return render(
        request, "airports/countries.html", {"panel": panel(read, answer), "rows": answer.value}
    )


@require_GET
@never_cache
def country(request: HttpRequest, code: str) -> HttpResponse:
    """List the airports of a country: QuerySetFilterJob."""
    read = read_or_404("country", code)
    answer = ask(read)
    airports: list[Airport] = answer.value or []
    if not airports:
        raise Http404("no airport in such a country")
    context = {
        "panel": panel(read, answer),
        "airports": airports,
        "country": airports[0].country,
    }
    return render(request, "airports/country.html", context)


@require_GET
@never_cache
def airport(request: HttpRequest, code: str) -> HttpResponse:
    """Show one airport: QuerySetGetJob."""
    read = read_or_404("airport", code)
    try:
        answer = ask(read)
    except Airport.DoesNotExist as error:
        # "There is no such airport" is cached too (negative_ttl): asking again costs no query.
        raise Http404("no such airport") from error
    return render(
        request, "airports/airport.html", {"panel": panel(read, answer), "airport": answer.value}
    )


@require_GET
async def board(request: HttpRequest) -> HttpResponse:
    """Show the weather at several airports: an async view."""
    # Each `aget` waits on the event loop, so these go out at the same time.
    airports = await asyncio.gather(*(airport_by_code.aget(code=code) for code in BOARD))
    # `aget_many` reads all entries in one round trip; what is missing is fetched in one call.
    answers = await ask_all([find_read("weather", code) for code in BOARD])
    context = {
        "rows": list(zip(airports, answers, strict=True)),
        "milliseconds": answers[0].milliseconds,
    }
    return render(request, "airports/board.html", context)


@require_GET
@never_cache
def report(request: HttpRequest) -> HttpResponse:
    """Show a report that costs real work: a cached function."""
    read = find_read("remotest")
    answer = ask(read)
    return render(
        request, "airports/report.html", {"panel": panel(read, answer), "rows": answer.value}
    )


@require_GET
@never_cache
def live(request: HttpRequest) -> HttpResponse:
    """Show the state of every read done lately."""
    return render(request, "airports/live.html")


@require_GET
@never_cache
def live_json(request: HttpRequest) -> JsonResponse:
    """Return what the live page shows, for its script."""
    try:
        return JsonResponse({"rows": live_rows()})
    except StoreUnavailable as error:
        return JsonResponse({"error": str(error)}, status=503)


def live_rows() -> list[dict[str, Any]]:
    """Return the state of every read done lately. Looking changes nothing: no fetch, no refresh."""
    return [as_json(read, state_of(read), history.of(read)) for read in history.reads()]


@require_GET
@never_cache
def read_json(request: HttpRequest, kind: str, argument: str) -> JsonResponse:
    """Do a read and return how it went. Only the weather's value is sent along."""
    read = read_or_404(kind, argument)
    try:
        answer = ask(read)
    except Airport.DoesNotExist as error:
        raise Http404("no such airport") from error
    return JsonResponse(
        {
            "state": answer.state,
            "milliseconds": answer.milliseconds,
            "error": answer.error,
            "value": answer.value if kind == "weather" else None,
        }
    )


@require_GET
@never_cache
def state_json(request: HttpRequest, kind: str, argument: str) -> JsonResponse:
    """Return the state of a read without doing it."""
    read = read_or_404(kind, argument)
    try:
        return JsonResponse(as_json(read, state_of(read), history.of(read)))
    except StoreUnavailable as error:
        return JsonResponse({"error": str(error)}, status=503)


@require_POST
def act(request: HttpRequest, verb: str, kind: str, argument: str) -> HttpResponse:
    """Invalidate, delete, clear or refresh what a read stores, then go back to the page."""
    read = read_or_404(kind, argument)
    if verb not in VERBS:
        raise Http404("no such verb")
    try:
        if verb == "clear":
            read.job.clear()
        else:
            getattr(read.job, verb)(**read.call)
        said = VERBS[verb].format(read.title)
    except (StoreUnavailable, DispatchFailed) as error:
        said = f"{read.title}: not done. {error}"
    if request.headers.get("Accept") == "application/json":  # the script of the live page
        return JsonResponse({"said": said})
    messages.info(request, said)
    return redirect(back(request))


@require_POST
def upstream(request: HttpRequest) -> HttpResponse:
    """Make the weather service slower or faster, or make it fail, then go back to the page."""
    try:
        delay = float(request.POST.get("delay", ""))
        now = control(delay=delay, failing="failing" in request.POST)
    except ValueError:
        messages.error(request, "The delay is a number of seconds.")
    except UpstreamRefused as error:
        messages.error(request, f"Not changed: {error}.")
    else:
        how = "fails" if now["failing"] else "answers"
        messages.info(request, f"The weather service now {how} after {now['delay']:g} s.")
    return redirect(back(request))


@require_GET
def health(request: HttpRequest) -> JsonResponse:
    """Answer once database and cache do."""
    cache.set("health", 1, 5)
    return JsonResponse({"airports": Airport.objects.count(), "cache": cache.get("health") == 1})


def back(request: HttpRequest) -> str:
    """Return the page a form was sent from, when it is one of ours."""
    page = request.POST.get("next", "")
    return page if url_has_allowed_host_and_scheme(page, allowed_hosts=None) else "/"
