"""Checks of the dispatchers that jobs use. Celery is imported only where a job uses it."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, Final

import django
from django.apps import AppConfig
from django.core import checks
from django.utils.module_loading import import_string

from async_cache.conf import SETTING, current_or_partial
from async_cache.jobs.registry import all_jobs
from async_cache.validators import DISPATCHER_NAMES

__all__ = ["check_celery", "check_dispatchers", "used_dispatchers"]

_JSON: Final = frozenset({"json", "application/json"})
# The transports of kombu whose client library is a package of its own.
_CLIENTS: Final[Mapping[str, str]] = {"redis": "redis", "rediss": "redis", "sentinel": "redis"}


def used_dispatchers() -> dict[str, str]:
    """Return every dispatcher that jobs use, with the place that names it first."""
    settings = current_or_partial()
    default = settings.defaults["dispatcher"]
    used: dict[str, str] = {}
    if default is None:
        used[settings.dispatcher] = f'{SETTING}["DISPATCHER"]'
    else:
        used[default] = f'{SETTING}["DEFAULTS"]["dispatcher"]'
    for name, options in settings.jobs.items():
        dispatcher = options.get("dispatcher")
        if dispatcher is not None:
            used.setdefault(dispatcher, f'{SETTING}["JOBS"]["{name}"]["dispatcher"]')
    for name, job in all_jobs().items():
        dispatcher = getattr(job, "dispatcher", None)
        if isinstance(dispatcher, str) and "dispatcher" not in settings.jobs.get(name, {}):
            used.setdefault(dispatcher, f"{name}.dispatcher")
    return used


def check_dispatchers(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """Name the dispatchers that cannot be used."""
    if not current_or_partial().enabled:
        return []
    found: list[checks.CheckMessage] = []
    for name, where in used_dispatchers().items():
        if name == "django_tasks" and django.VERSION < (6, 0):
            message = f"{where} is django_tasks, and Django {django.get_version()} has no tasks."
            hint = 'Upgrade to Django 6.0, or use "celery" or "thread".'
            found.append(checks.Error(message, hint=hint, id="async_cache.E008"))
        elif name not in DISPATCHER_NAMES:
            try:
                import_string(name)
            except Exception as error:  # noqa: BLE001 - reported; an import may raise anything
                message = (
                    f'{where} is "{name}", which cannot be imported: '
                    f"{type(error).__qualname__}: {error}"
                )
                hint = f"Correct the path, or use one of {', '.join(DISPATCHER_NAMES)}."
                found.append(checks.Error(message, hint=hint, id="async_cache.E008"))
    return found


def check_celery(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """Name what keeps Celery from taking or running refreshes."""
    where = used_dispatchers().get("celery")
    if where is None or not current_or_partial().enabled:
        return []
    if importlib.util.find_spec("celery") is None:
        return [
            checks.Error(
                f'{where} is "celery", which is not installed.',
                hint=(
                    f'Run `pip install "celery[redis]"`, or set {SETTING}["DISPATCHER"] = "thread".'
                ),
                id="async_cache.E009",
            )
        ]
    # By name: where no job uses Celery it is not imported.
    app: Any = importlib.import_module("celery").current_app
    if app.main == "default" and not app.configured:
        return [
            checks.Warning(
                f'{where} is "celery", and no Celery app of this project is loaded: refreshes go '
                "to a broker on localhost that no worker of yours reads.",
                hint=(
                    "Create the app in <project>/celery.py and import it in "
                    "<project>/__init__.py: `from .celery import app as celery_app`. "
                    f'Without Celery, set {SETTING}["DISPATCHER"] = "thread".'
                ),
                id="async_cache.W008",
            )
        ]
    return [*_check_content(app), *_check_broker(app), *_check_eager(app)]


def _check_content(app: Any) -> list[checks.CheckMessage]:
    if _JSON & set(app.conf.accept_content or ()):
        return []
    return [
        checks.Error(
            f'The Celery app "{app.main}" does not accept JSON: its workers refuse every refresh.',
            hint='Add "json" to `accept_content`. async_cache needs no other content type.',
            id="async_cache.E010",
        )
    ]


def _check_broker(app: Any) -> list[checks.CheckMessage]:
    if app.conf.task_always_eager:
        return []
    try:
        transport = app.connection_for_write().transport_cls
    except (ImportError, KeyError) as error:
        return [
            checks.Error(
                f'The broker of the Celery app "{app.main}" cannot be used: {error}.',
                hint="Correct `broker_url`, or install the transport's package.",
                id="async_cache.E011",
            )
        ]
    if transport == "memory":
        return [
            checks.Warning(
                f'The broker of the Celery app "{app.main}" is memory://, which lives in this '
                "process: no worker gets the refreshes.",
                hint="Set `broker_url` to a real broker, such as redis://localhost:6379/0.",
                id="async_cache.W009",
            )
        ]
    client = _CLIENTS.get(transport) if isinstance(transport, str) else None
    if client is not None and importlib.util.find_spec(client) is None:
        return [
            checks.Error(
                f'The broker of the Celery app "{app.main}" is {transport}://, and the package '
                f'"{client}" is not installed.',
                hint=f'Run `pip install "celery[{client}]"`.',
                id="async_cache.E011",
            )
        ]
    return []


def _check_eager(app: Any) -> list[checks.CheckMessage]:
    if not app.conf.task_always_eager:
        return []
    return [
        checks.Info(
            f'The Celery app "{app.main}" runs tasks eagerly: a stale read waits for its refresh.',
            hint="Set `task_always_eager` to False outside of tests.",
            id="async_cache.I001",
        )
    ]
