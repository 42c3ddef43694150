"""Checks of the jobs: names, the entries of ``JOBS``, serializers, what workers may import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.apps import AppConfig, apps
from django.core.checks import CheckMessage, Error, Warning

from async_cache.conf import SETTING, current_or_partial, find_problems
from async_cache.jobs import registry
from async_cache.validators import suggest

__all__ = ["check_jobs"]


def check_jobs(app_configs: Sequence[AppConfig] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Name the jobs that share a name, and the entries of ``JOBS`` that name none."""
    jobs = registry.all_jobs()
    return [*_check_names(), *_check_entries(jobs), *_check_modules(jobs)]


def _check_names() -> list[CheckMessage]:
    return [
        Error(
            f'Two jobs have the name "{name}": {", ".join(sorted(map(str, kinds)))}. They would '
            "read each other's entries.",
            hint="Give one of them another `name`.",
            id="async_cache.E007",
        )
        for name, kinds in registry.duplicates().items()
    ]


def _check_entries(jobs: Mapping[str, type]) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    for name in current_or_partial().jobs:
        base, colon, label = name.partition(":")
        if name in jobs or (base in jobs and colon and _is_model(label)):
            continue
        if base in jobs:
            message = f'{SETTING}["JOBS"]["{name}"]: there is no model "{label}".'
            labels = (model._meta.label for model in apps.get_models())
            hint = f"Write the label as app_label.ModelName. {suggest(label, labels)}"
        else:
            message = f'{SETTING}["JOBS"]["{name}"] names no job that is loaded.'
            hint = (
                f"{suggest(name, jobs)} A job is loaded when its module is imported; those in the "
                "`jobs` module of an installed app always are."
            )
        found.append(Warning(message, hint=hint, id="async_cache.W007"))
    return found


def _is_model(label: str) -> bool:
    try:
        apps.get_model(label)
    except (LookupError, ValueError):
        return False
    return True


def _check_modules(jobs: Mapping[str, type]) -> list[CheckMessage]:
    if find_problems():
        return []  # JOB_MODULES may be what is wrong; its own error comes first
    return [
        Warning(
            f'Workers may not import "{job.__module__}", where the job "{name}" is defined.',
            hint=(f'Move it to an installed app, or add the module to {SETTING}["JOB_MODULES"].'),
            id="async_cache.W012",
        )
        for name, job in jobs.items()
        if not registry.may_import(job.__module__)
    ]
