"""Jobs made by a test, the only ones that there are while it runs."""

from __future__ import annotations

from io import StringIO
from typing import Any

from django.core.management import call_command

from async_cache import AsyncCacheJob


def build(module: str, name: str = "Rates", **given: Any) -> Any:
    given.setdefault("fetch", lambda self, base: f"{base} fetched")
    return type(name, (AsyncCacheJob,), {"__module__": module, "ttl": 600, **given})


def schedule(*args: str) -> str:
    out = StringIO()
    call_command("async_cache", "schedule", *args, stdout=out)
    return out.getvalue().strip()
