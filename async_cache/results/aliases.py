"""Which cache, or which server, a result backend of Celery means."""

from __future__ import annotations

from typing import Final

from django.conf import settings

from async_cache import conf
from async_cache.exceptions import ConfigurationError
from async_cache.results.conf import get_results_settings
from async_cache.validators import suggest

__all__ = ["SCHEME", "choose_alias", "choose_server"]

SCHEME: Final = "async-cache-redis"


def choose_alias(url: str | None, cache_backend: str | None) -> str:
    """Return the alias of ``CACHES`` that holds the results.

    Args:
        url: The backend's, ``async-cache://alias``.
        cache_backend: Celery's setting. A URL there is for Celery's own backend: passed over.

    Raises:
        ConfigurationError: ``CACHES`` has no such alias.
    """
    named = (url or "").partition("://")[2].strip("/")
    where = f'The result backend "{url}"'
    if not named and cache_backend and "://" not in cache_backend:
        named, where = cache_backend, f'CELERY_CACHE_BACKEND = "{cache_backend}"'
    if not named:
        return get_results_settings().cache or conf.get_settings().cache
    if named not in settings.CACHES:
        raise ConfigurationError(
            f"{where} names the cache {named!r}, which is not in CACHES. "
            f"{suggest(named, settings.CACHES)}"
        )
    return named


def choose_server(url: str | None) -> str:
    """Return the URL of the Redis server, with a scheme that Celery knows.

    Args:
        url: The backend's; without a server in it, that of the result store's cache is meant.

    Raises:
        ConfigurationError: That cache is not on a Redis server.
    """
    if url is not None and url.startswith(f"{SCHEME}:") and url != f"{SCHEME}://":
        return "redis" + url.removeprefix(SCHEME)
    if url is not None and url not in (SCHEME, f"{SCHEME}://"):
        return url
    alias = get_results_settings().cache or conf.get_settings().cache
    location = settings.CACHES.get(alias, {}).get("LOCATION")
    if isinstance(location, list | tuple):
        location = location[0] if location else None
    if isinstance(location, str) and location.partition("://")[0] in {"redis", "rediss"}:
        return location
    raise ConfigurationError(
        f'The result backend "{SCHEME}" names no server, and the cache of results, '
        f'CACHES["{alias}"], has no address of a Redis server. '
        f'Write "{SCHEME}+redis://host:6379/0", or let ASYNC_CACHE["RESULTS"]["CACHE"] name a '
        "cache on Redis."
    )
