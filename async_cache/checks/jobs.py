"""Checks of the jobs: names, the entries of ``JOBS``, serializers, what workers may import."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from django.apps import AppConfig, apps
from django.core import checks

from async_cache.conf import OPTIONS, SETTING, check_options, current_or_partial, find_problems
from async_cache.exceptions import ConfigurationError
from async_cache.jobs import registry
from async_cache.resolution import is_computed
from async_cache.serializers import get_serializer
from async_cache.validators import suggest

__all__ = ["check_jobs"]

_SCHEDULES: Final = "async_cache.schedules"
_SCHEDULED: Final = ("refresh_every", "refresh_schedule", "keep_warm")


def check_jobs(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """Name the jobs that share a name, and the entries of ``JOBS`` that name none."""
    jobs = registry.all_jobs()
    return [
        *_check_names(),
        *_check_entries(jobs),
        *_check_options(jobs),
        *_check_attributes(jobs),
        *_check_modules(jobs),
        *_check_serializers(jobs),
        *_check_schedules(jobs),
    ]


def _check_schedules(jobs: Mapping[str, type]) -> list[checks.CheckMessage]:
    if apps.is_installed(_SCHEDULES):
        return []
    settings = current_or_partial()
    found: list[checks.CheckMessage] = []
    for name in sorted({*jobs, *settings.jobs}):
        given = {**_declared(jobs.get(name)), **settings.jobs.get(name, {})}
        named = [option for option in _SCHEDULED if given.get(option) is not None]
        if named:
            message = f"{name} sets {' and '.join(named)}, and nothing acts on that."
            hint = f'Add "{_SCHEDULES}" to INSTALLED_APPS.'
            found.append(checks.Warning(message, hint=hint, id="async_cache.W015"))
    return found


def _declared(job: type | None) -> Mapping[str, Any]:
    """Return what a class says about its schedule, inherited or not."""
    return {option: getattr(job, option, None) for option in _SCHEDULED}


def _check_attributes(jobs: Mapping[str, type]) -> list[checks.CheckMessage]:
    found: list[checks.CheckMessage] = []
    for name, job in jobs.items():
        for attribute, value in vars(job).items():
            if attribute.startswith("_") or attribute in OPTIONS or _is_code(value):
                continue
            meant = _meant(attribute)
            if meant is not None:
                message = f'The job "{name}" has an attribute {attribute!r}, which is no option.'
                hint = f"Did you mean {meant!r}? If it is yours, name it less like an option."
                found.append(checks.Warning(message, hint=hint, id="async_cache.W014"))
    return found


def _is_code(value: object) -> bool:
    return callable(value) or isinstance(value, classmethod | property | staticmethod)


def _meant(attribute: str) -> str | None:
    """Return the option that an attribute's name is a slip of, or what its ancestor's was."""
    if attribute == "lifetime":
        return "ttl"
    near = [option for option in OPTIONS if abs(len(option) - len(attribute)) <= 1]
    matches = difflib.get_close_matches(attribute, near, n=1, cutoff=0.66)
    return matches[0] if matches else None


def _check_names() -> list[checks.CheckMessage]:
    return [
        checks.Error(
            f'Two jobs have the name "{name}": {", ".join(sorted(map(str, kinds)))}. They would '
            "read each other's entries.",
            hint="Give one of them another `name`.",
            id="async_cache.E007",
        )
        for name, kinds in registry.duplicates().items()
    ]


def _check_entries(jobs: Mapping[str, type]) -> list[checks.CheckMessage]:
    found: list[checks.CheckMessage] = []
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
        found.append(checks.Warning(message, hint=hint, id="async_cache.W007"))
    return found


def _is_model(label: str) -> bool:
    try:
        apps.get_model(label)
    except (LookupError, ValueError):
        return False
    return True


def _check_modules(jobs: Mapping[str, type]) -> list[checks.CheckMessage]:
    if find_problems():
        return []  # JOB_MODULES may be what is wrong; its own error comes first
    return [
        checks.Warning(
            f'Workers may not import "{job.__module__}", where the job "{name}" is defined.',
            hint=(f'Move it to an installed app, or add the module to {SETTING}["JOB_MODULES"].'),
            id="async_cache.W012",
        )
        for name, job in jobs.items()
        if not registry.may_import(job.__module__)
    ]


def _check_options(jobs: Mapping[str, type]) -> list[checks.CheckMessage]:
    found: list[checks.CheckMessage] = []
    for name, job in jobs.items():
        given = {option: getattr(job, option) for option in OPTIONS if hasattr(job, option)}
        plain = {key: value for key, value in given.items() if not is_computed(key, value)}
        found += [
            checks.Error(
                f"{problem.where}: {problem.message}.", hint=problem.hint, id="async_cache.E003"
            )
            for problem in check_options(name, plain)
        ]
    return found


def _check_serializers(jobs: Mapping[str, type]) -> list[checks.CheckMessage]:
    settings = current_or_partial()
    used = {settings.defaults["serializer"]: f'{SETTING}["DEFAULTS"]["serializer"]'}
    for name, options in settings.jobs.items():
        if "serializer" in options:
            used.setdefault(options["serializer"], f'{SETTING}["JOBS"]["{name}"]["serializer"]')
    for name, job in jobs.items():
        serializer = getattr(job, "serializer", None)
        if isinstance(serializer, str):
            used.setdefault(serializer, f"{name}.serializer")
    found: list[checks.CheckMessage] = []
    for serializer, where in used.items():
        try:
            get_serializer(serializer)
        except ConfigurationError as error:
            message = f'{where} is "{serializer}", which cannot be loaded: {error}'
            hint = 'Use "pickle" or "json", or the dotted path to a serializer of your own.'
            found.append(checks.Error(message, hint=hint, id="async_cache.E012"))
    return found
