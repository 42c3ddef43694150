"""Talk to the weather service: ask for weather, and tell it how to behave."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

from django.conf import settings


class UpstreamRefused(Exception):
    """The service does not accept what it was told, or does not answer."""


def address() -> str:
    """Where the service is."""
    url: str = settings.UPSTREAM_URL  # type: ignore[misc]  # of demo_site/settings.py
    return url


def ask_for_weather(codes: Sequence[str]) -> list[dict[str, Any]]:
    """Return one reading for each code. This takes as long as the service likes."""
    with urllib.request.urlopen(f"{address()}/weather/{','.join(codes)}", timeout=12) as answer:
        readings: list[dict[str, Any]] = json.load(answer)["readings"]
    for reading in readings:
        # Who asked, so that the pages can show it: the worker or the web server.
        reading["fetched_by"] = os.getpid()
    return readings


def control(**behaviour: Any) -> dict[str, Any]:
    """Change the behaviour of the service; without arguments, look it up.

    Raises:
        UpstreamRefused: It did not accept the change, or did not answer.
    """
    data = json.dumps(behaviour).encode() if behaviour else None
    try:
        with urllib.request.urlopen(f"{address()}/control", data, timeout=2) as answer:
            body: dict[str, Any] = json.load(answer)
            return body
    except urllib.error.HTTPError as error:
        raise UpstreamRefused(json.load(error).get("error", str(error))) from error
    except OSError as error:
        raise UpstreamRefused(f"the weather service does not answer: {error}") from error
