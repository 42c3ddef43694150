"""A Celery task of this project. Its result is a row of the database."""

from __future__ import annotations

from typing import Any

from celery import shared_task

from async_cache.results import count_group, result_group


# `persist=True`: the row is written first, then Redis is told. For all other tasks the app's result
# backend stays what it is; in this demo they keep no results at all.
@shared_task(persist=True, ignore_result=False)  # type: ignore[call-overload, untyped-decorator]
def sum_up(group: str) -> dict[str, Any]:
    """Sum up what the members of a group have found so far."""
    flights = result_group(group)
    return {
        "reports": len(flights),
        "failures": count_group(group, failures=True),
        "kilometres": sum(km for km, _, _ in flights),
    }
