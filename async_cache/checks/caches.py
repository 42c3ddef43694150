"""Checks of the cache backends that jobs use: shared, able to elect, with bounds on waits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from django.apps import AppConfig
from django.conf import settings as django_settings
from django.core import checks
from django.core.cache import caches
from django.core.cache.backends.base import BaseCache
from django.core.cache.backends.db import DatabaseCache
from django.core.cache.backends.dummy import DummyCache
from django.core.cache.backends.filebased import FileBasedCache
from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.memcached import BaseMemcachedCache
from django.db import router

from async_cache.conf import SETTING, current_or_partial, find_problems
from async_cache.jobs.registry import all_jobs
from async_cache.stores.base import Level
from async_cache.stores.database import sqlite_loses_writes
from async_cache.stores.registry import get_store
from async_cache.validators import suggest

__all__ = ["check_caches", "describe", "load_caches", "reads_raw_bytes"]

_DEFAULT_MAX_ENTRIES: Final = 300
_DJANGO_REDIS: Final = "django_redis.cache.RedisCache"
_TIMEOUTS: Final[Mapping[str, tuple[str, ...]]] = {
    _DJANGO_REDIS: ("SOCKET_CONNECT_TIMEOUT", "SOCKET_TIMEOUT"),
    "django.core.cache.backends.redis.RedisCache": ("socket_connect_timeout", "socket_timeout"),
    "django.core.cache.backends.memcached.PyMemcacheCache": ("connect_timeout", "timeout"),
}
_SHARED_BACKEND: Final = (
    "Use a Redis server: django_redis.cache.RedisCache, or "
    "django.core.cache.backends.redis.RedisCache."
)


def used_aliases() -> dict[str, str]:
    """Return every alias of ``CACHES`` that jobs use, with the place that names it first."""
    settings = current_or_partial()
    default = settings.defaults["cache"]
    used: dict[str, str] = {}
    if default is None:
        used[settings.cache] = f'{SETTING}["CACHE"]'
    else:
        used[default] = f'{SETTING}["DEFAULTS"]["cache"]'
    for name, options in settings.jobs.items():
        alias = options.get("cache")
        if alias is not None:
            used.setdefault(alias, f'{SETTING}["JOBS"]["{name}"]["cache"]')
    for name, job in all_jobs().items():
        alias = getattr(job, "cache", None)
        if isinstance(alias, str) and "cache" not in settings.jobs.get(name, {}):
            used.setdefault(alias, f"{name}.cache")
    return used


def load_caches() -> tuple[dict[str, BaseCache], list[checks.CheckMessage]]:
    """Return the caches that jobs use, and an error for each that is missing or does not load."""
    found: dict[str, BaseCache] = {}
    errors: list[checks.CheckMessage] = []
    for alias, where in used_aliases().items():
        if alias not in django_settings.CACHES:
            errors.append(
                checks.Error(
                    f'{where} is "{alias}", which is not in CACHES.',
                    hint=f'{suggest(alias, django_settings.CACHES)} Or add "{alias}" to CACHES.',
                    id="async_cache.E005",
                )
            )
            continue
        try:
            found[alias] = caches[alias]
        except Exception as error:  # noqa: BLE001 - reported; a backend may raise anything
            errors.append(
                checks.Error(
                    f"{describe(alias)} cannot be loaded: {type(error).__qualname__}: {error}",
                    hint="Correct BACKEND and OPTIONS, or install the backend's package.",
                    id="async_cache.E006",
                )
            )
    return found, errors


def describe(alias: str) -> str:
    """Return how messages name a cache."""
    return f'The cache CACHES["{alias}"]'


def reads_raw_bytes(alias: str) -> bool:
    """Say whether async_cache reads this cache itself, without the backend unpickling first."""
    return get_store(alias).level is Level.FENCED


def check_caches(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """Name the caches that cannot be shared, cannot elect one refresher or may wait too long."""
    found, messages = load_caches()
    for alias, cache in found.items():
        options = django_settings.CACHES[alias].get("OPTIONS") or {}
        for check in _CHECKS:
            messages += check(alias, cache, options)
    return messages


def _check_kind(
    alias: str, cache: BaseCache, options: Mapping[str, Any]
) -> list[checks.CheckMessage]:
    if isinstance(cache, DummyCache):
        message = f"{describe(alias)} stores nothing: every get fetches."
        hint = (
            f"{_SHARED_BACKEND} To turn caching off on purpose, set {SETTING}['ENABLED'] = False."
        )
        return [checks.Warning(message, hint=hint, id="async_cache.W001")]
    if isinstance(cache, LocMemCache):
        message = (
            f"{describe(alias)} is private to each process: what a worker refreshes, the web "
            "servers do not see."
        )
        hint = f'{_SHARED_BACKEND} Or set {SETTING}["DISPATCHER"] = "thread" in a single process.'
        return [checks.Warning(message, hint=hint, id="async_cache.W002")]
    if isinstance(cache, FileBasedCache):
        message = (
            f"{describe(alias)} cannot elect one refresher: two processes may both add a key, so "
            "a value may be fetched more than once."
        )
        return [checks.Warning(message, hint=_SHARED_BACKEND, id="async_cache.W003")]
    return []


def _check_sqlite(
    alias: str, cache: BaseCache, options: Mapping[str, Any]
) -> list[checks.CheckMessage]:
    if not isinstance(cache, DatabaseCache):
        return []
    database = router.db_for_write(cache.cache_model_class)
    if not sqlite_loses_writes(database):
        return []
    return [
        checks.Warning(
            f'{describe(alias)} is a table of the SQLite database "{database}", whose transactions '
            "begin deferred: with several processes writes are lost.",
            hint=(
                f'Set DATABASES["{database}"]["OPTIONS"] = {{"transaction_mode": "IMMEDIATE", '
                f'"init_command": "PRAGMA journal_mode=WAL;"}}. {_SHARED_BACKEND}'
            ),
            id="async_cache.W004",
        )
    ]


def _check_size(
    alias: str, cache: BaseCache, options: Mapping[str, Any]
) -> list[checks.CheckMessage]:
    if not isinstance(cache, DatabaseCache | FileBasedCache):
        return []
    config = django_settings.CACHES[alias]
    if any(name in given for given in (options, config) for name in ("MAX_ENTRIES", "max_entries")):
        return []
    return [
        checks.Warning(
            f"{describe(alias)} holds {_DEFAULT_MAX_ENTRIES} entries, Django's default, and drops "
            "some of them past that: values are fetched again and again.",
            hint=f'Set CACHES["{alias}"]["OPTIONS"] = {{"MAX_ENTRIES": 100_000}}.',
            id="async_cache.W005",
        )
    ]


def _check_timeouts(
    alias: str, cache: BaseCache, options: Mapping[str, Any]
) -> list[checks.CheckMessage]:
    wanted = _timeout_names(cache)
    if not wanted:
        return []
    given = {name.lower() for name in _given_timeouts(alias, options)}
    missing = [name for name in wanted if name.lower() not in given]
    if not missing:
        return []
    example = ", ".join(f'"{name}": 0.25' for name in wanted)
    if isinstance(cache, BaseMemcachedCache):
        effect = "a server that is silent holds up each get."
    else:
        effect = (
            f'async_cache bounds its own waits by {SETTING}["IO_TIMEOUT"], but all else that uses '
            "this cache waits as long as the client library likes."
        )
    return [
        checks.Warning(
            f"{describe(alias)} does not set {' and '.join(missing)}: {effect}",
            hint=f'Set CACHES["{alias}"]["OPTIONS"] = {{{example}}}.',
            id="async_cache.W006",
        )
    ]


def _check_honesty(
    alias: str, cache: BaseCache, options: Mapping[str, Any]
) -> list[checks.CheckMessage]:
    hides = getattr(cache, "_ignore_exceptions", False) and _inherits(cache, _DJANGO_REDIS)
    if not hides or find_problems() or reads_raw_bytes(alias):
        return []
    return [
        checks.Warning(
            f"{describe(alias)} ignores exceptions: an outage looks like an empty cache, and every "
            "get fetches without knowing why.",
            hint=f'Remove IGNORE_EXCEPTIONS from CACHES["{alias}"]["OPTIONS"].',
            id="async_cache.W013",
        )
    ]


def _timeout_names(cache: BaseCache) -> tuple[str, ...]:
    """Return the names of the socket timeouts in the OPTIONS of a cache over a network."""
    return next((names for path, names in _TIMEOUTS.items() if _inherits(cache, path)), ())


def _inherits(cache: BaseCache, path: str) -> bool:
    # By name: the client libraries are optional and need not be imported.
    return path in {f"{kind.__module__}.{kind.__qualname__}" for kind in type(cache).__mro__}


def _given_timeouts(alias: str, options: Mapping[str, Any]) -> set[str]:
    """Return the timeouts set in OPTIONS, in django-redis' pool options or in the server's URL."""
    given = {name for name, value in options.items() if value}
    pool = options.get("CONNECTION_POOL_KWARGS")
    if isinstance(pool, Mapping):
        given |= {name for name, value in pool.items() if value}
    location = django_settings.CACHES[alias].get("LOCATION") or ""
    servers = location.split(",") if isinstance(location, str) else location
    for server in servers:
        if isinstance(server, str) and "://" in server:
            given |= set(parse_qs(urlsplit(server).query))
    return given


_CHECKS: Final[
    tuple[Callable[[str, BaseCache, Mapping[str, Any]], list[checks.CheckMessage]], ...]
] = (
    _check_kind,
    _check_sqlite,
    _check_size,
    _check_timeouts,
    _check_honesty,
)
