"""What ``manage.py check`` says about results.

Every message has an id and a hint that says what to do.

====  =============================================================================================
Id    Meaning
====  =============================================================================================
E001  ``ASYNC_CACHE["RESULTS"]`` has the wrong type, an unknown key or a bad value
E002  the cache of results is not in ``CACHES``
E003  the cache of results cannot keep them: it stores nothing, or two writers can both add a key
E004  ``SERIALIZER`` or ``VIEW_PERMISSION`` names what cannot be had
E005  Celery's result backend names a cache that is not in ``CACHES``
E006  the result backend ``async-cache-redis`` has no address of a Redis server
E007  Celery's result backend begins with ``async-cache`` and does not exist
W001  the cache of results is private to each process
W002  the cache of results drops records: ``MAX_ENTRIES`` is small
W003  DatabaseCache on SQLite without IMMEDIATE transactions loses writes
W004  no Celery app of the project is loaded, and `async_task` needs one
====  =============================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from django.apps import AppConfig
from django.conf import settings as django_settings
from django.core import checks
from django.core.cache import caches
from django.core.cache.backends.base import BaseCache
from django.core.cache.backends.db import DatabaseCache
from django.core.cache.backends.dummy import DummyCache
from django.core.cache.backends.filebased import FileBasedCache
from django.core.cache.backends.locmem import LocMemCache
from django.db import router
from django.utils.module_loading import import_string

from async_cache.conf import SETTING, current_or_partial
from async_cache.results.backend_checks import backend_alias, check_app, check_backend
from async_cache.results.conf import SECTION
from async_cache.serializers import get_serializer
from async_cache.stores.database import sqlite_loses_writes
from async_cache.validators import suggest

__all__ = ["check_cache", "check_paths", "check_section", "register"]

_TAG: Final = "async_cache"
_DEFAULT_MAX_ENTRIES: Final = 300
_SHARED: Final = "Use a Redis server, Memcached, or the database: cached=False."


def register() -> None:
    """Register the checks; registering twice is the same as once."""
    checks.register(check_section, _TAG)
    checks.register(check_paths, _TAG)
    checks.register(check_cache, _TAG)
    checks.register(check_backend, _TAG)
    checks.register(check_app, _TAG)


def check_section(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """Name every unknown key and bad value of the section."""
    return [
        checks.Error(
            f"{problem.where}: {problem.message}.", hint=problem.hint, id="async_cache_results.E001"
        )
        for problem in SECTION.find_problems()
    ]


def check_paths(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """Name each path that leads nowhere."""
    chosen = SECTION.current_or_partial()
    permission = chosen.view_permission
    tries: dict[str, tuple[Callable[[str], object], str]] = {
        "SERIALIZER": (get_serializer, chosen.serializer)
    }
    if isinstance(permission, str):
        tries["VIEW_PERMISSION"] = import_string, permission
    found: list[checks.CheckMessage] = []
    for name, (find, path) in tries.items():
        try:
            find(path)
        except Exception as error:  # noqa: BLE001 - a module of the project may raise anything
            found.append(
                checks.Error(
                    f'{SETTING}["{SECTION.name}"]["{name}"] is "{path}", which cannot be had: '
                    f"{error}",
                    hint="Give the dotted path of one that can be imported.",
                    id="async_cache_results.E004",
                )
            )
    return found


def check_cache(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """Name a cache that cannot keep results, or not all of them."""
    core = current_or_partial()
    chosen = SECTION.current_or_partial()
    alias = chosen.cache or core.cache
    found: list[checks.CheckMessage | None] = []
    try:
        cache = caches[alias]
    except Exception as error:  # noqa: BLE001 - reported; a backend may raise anything
        if chosen.cache is not None:  # else the core's own check says so
            found.append(
                checks.Error(
                    f'{SETTING}["{SECTION.name}"]["CACHE"] is "{alias}", which cannot be used: '
                    f"{error}",
                    hint=suggest(alias, django_settings.CACHES),
                    id="async_cache_results.E002",
                )
            )
    else:
        found.append(_judge(alias, cache))
    other = backend_alias()
    if other is not None and other != alias:
        found.append(_judge_backend(other))
    return [message for message in found if message is not None]


def _judge_backend(alias: str) -> checks.CheckMessage | None:
    try:
        cache = caches[alias]
    except Exception as error:  # noqa: BLE001 - reported; a backend may raise anything
        return checks.Error(
            f'Celery\'s result backend is the cache "{alias}", which cannot be used: {error}',
            hint="Correct its BACKEND and OPTIONS, or install the package.",
            id="async_cache_results.E005",
        )
    return _judge(alias, cache)


def _judge(alias: str, cache: BaseCache) -> checks.CheckMessage | None:
    where = f'The cache CACHES["{alias}"]'
    if isinstance(cache, DummyCache):
        return checks.Error(
            f"{where} stores nothing, so no result is kept.",
            hint=_SHARED,
            id="async_cache_results.E003",
        )
    if isinstance(cache, FileBasedCache):
        return checks.Error(
            f"{where} cannot keep results: two processes may both add a file, so a member of a "
            "group may be lost and a late state may hide a result.",
            hint=_SHARED,
            id="async_cache_results.E003",
        )
    if isinstance(cache, LocMemCache):
        return checks.Warning(
            f"{where} is private to each process: nobody else sees what a worker stores.",
            hint=_SHARED,
            id="async_cache_results.W001",
        )
    if isinstance(cache, DatabaseCache):
        if sqlite_loses_writes(router.db_for_write(cache.cache_model_class)):
            return checks.Warning(
                f"{where} is on SQLite, where two writers make each other fail.",
                hint='Set OPTIONS = {"transaction_mode": "IMMEDIATE"} on that database.',
                id="async_cache_results.W003",
            )
        if cache._max_entries <= _DEFAULT_MAX_ENTRIES:
            return checks.Warning(
                f"{where} keeps {cache._max_entries} keys and drops others at random: a record "
                "takes two or three.",
                hint=f'Set CACHES["{alias}"]["OPTIONS"] = {{"MAX_ENTRIES": 1_000_000}}.',
                id="async_cache_results.W002",
            )
    return None
