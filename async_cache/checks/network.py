"""Checks for ``manage.py check --deploy``: who can reach the cache, the broker, the results."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from django.apps import AppConfig
from django.conf import settings as django_settings
from django.core import checks
from django.core.cache import caches
from django.core.cache.backends.memcached import BaseMemcachedCache

from async_cache.checks.caches import describe, load_caches
from async_cache.checks.dispatch import used_dispatchers
from async_cache.conf import current_or_partial, find_problems

__all__ = ["check_broker_access", "check_cache_access"]

_PICKLE: Final = frozenset({"pickle", "application/x-python-serialize"})
_TLS: Final = frozenset({"rediss", "amqps", "sqs", "gcpubsub"})
_NETWORK: Final = frozenset(
    {"redis", "rediss", "amqp", "amqps", "pyamqp", "librabbitmq", "sentinel", "mongodb"}
)
_GUEST: Final = "guest"


def check_cache_access(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """Name the caches on other hosts that anybody on the way can read or write."""
    if find_problems():
        return []  # its own errors come first
    found: list[checks.CheckMessage] = []
    for alias in load_caches()[0]:
        options = django_settings.CACHES[alias].get("OPTIONS") or {}
        lacks = sorted(set(_cache_lacks(alias, options)))
        if lacks:
            found.append(
                checks.Warning(
                    f"{describe(alias)} is reached over the network without {_both(lacks)}: who is "
                    "on that network can read what is cached, and drop or withhold it.",
                    hint=(
                        "Use a rediss:// URL with a password, for Memcached TLS. Where only your "
                        "own servers are on that network, silence this check."
                    ),
                    id="async_cache.W103",
                )
            )
    return found


def _cache_lacks(alias: str, options: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the ways to the servers of a cache lack."""
    given = {str(name).lower(): value for name, value in options.items()}
    if isinstance(caches[alias], BaseMemcachedCache):
        if not all(is_local(_memcached_host(one)) for one in _listed(alias)):
            yield from [] if given.get("username") else ["a password"]
            yield from [] if given.get("tls_context") else ["TLS"]
        return
    # Both are given to each connection.
    for more in ("redis_client_kwargs", "connection_pool_kwargs"):
        given |= {str(name).lower(): value for name, value in (given.get(more) or {}).items()}
    for url in _listed(alias):
        if urlsplit(url).scheme in {"redis", "rediss"}:
            yield from _redis_lacks(url, given)


def _listed(alias: str) -> list[str]:
    """Return the servers of a cache; a text may name several, as the backends read it."""
    location = django_settings.CACHES[alias].get("LOCATION") or []
    listed = location if isinstance(location, list | tuple) else re.split("[;,]", str(location))
    return [str(one).strip() for one in listed]


def _memcached_host(server: str) -> str:
    if server.startswith(("/", "unix:")):
        return ""
    return server.rpartition(":")[0].strip("[]") or server


def _redis_lacks(url: str, given: Mapping[str, Any]) -> list[str]:
    """Return what the way to a Redis server lacks: a password, TLS."""
    parts = urlsplit(url)
    # Where Sentinels are asked, the URL has the name of the service in the place of a host.
    asked = [one[0] for one in given.get("sentinels") or ()] or [parts.hostname]
    if all(is_local(host) for host in asked):
        return []
    query = parse_qs(parts.query)
    known = (parts.password, query.get("password"), given.get("password"))
    lacks = [] if any(known) or given.get("credential_provider") else ["a password"]
    # By name: a class, or the dotted path of one.
    kind = given.get("connection_class", "")
    tls = parts.scheme in _TLS or given.get("ssl") or "SSL" in getattr(kind, "__name__", str(kind))
    return lacks if tls else [*lacks, "TLS"]


def is_local(host: str | None) -> bool:
    """Say whether a host is this machine: a socket file, localhost, a loopback address."""
    if not host or host == "localhost" or host.startswith("/"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def check_broker_access(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """Name a broker that others can write to, and workers that unpickle what they find there."""
    if "celery" not in used_dispatchers() or not current_or_partial().enabled:
        return []
    if importlib.util.find_spec("celery") is None:
        return []
    # By name: where no job uses Celery it is not imported.
    app: Any = importlib.import_module("celery").current_app
    if app.main == "default" and not app.configured:
        return []
    return [*_check_pickle(app), *_check_way(app), *_check_results(app)]


def _check_pickle(app: Any) -> list[checks.CheckMessage]:
    if not _PICKLE & set(app.conf.accept_content or ()):
        return []
    return [
        checks.Warning(
            f'The workers of the Celery app "{app.main}" accept pickle: who can write to the '
            "broker can run code in them.",
            hint='Remove "pickle" from `accept_content`. async_cache needs "json" only.',
            id="async_cache.W104",
        )
    ]


def _check_way(app: Any) -> list[checks.CheckMessage]:
    lacks: set[str] = set()
    # A broker that is read elsewhere than it is written to has two addresses.
    for connect in (app.connection_for_write, app.connection_for_read):
        try:
            connection = connect()
        except (ImportError, KeyError, ValueError):
            return []  # its library is missing, or it is none: Celery's own errors say so
        urls = connection.alt or [connection.as_uri(include_password=True)]
        proven = "EXTERNAL" in (connection.login_method, app.conf.broker_login_method)
        given = connection.transport_options or {}
        proven = proven or bool(given.get("credential_provider"))
        for url in urls:
            lacks |= set(_url_lacks(str(url), bool(connection.ssl), proven))
    if not lacks:
        return []
    return [
        checks.Warning(
            f'The broker of the Celery app "{app.main}" is reached over the network without '
            f"{_both(sorted(lacks))}: who is on that network can read the arguments of calls, drop "
            "their messages, or hold them back. Forged messages are refused.",
            hint=(
                "Use TLS and a password of your own. Where only your own servers are on that "
                "network, silence this check."
            ),
            id="async_cache.W105",
        )
    ]


def _check_results(app: Any) -> list[checks.CheckMessage]:
    """Name a result backend of Celery's own that others can read and write."""
    backend = app.conf.result_backend
    if not isinstance(backend, str):
        return []
    tls = bool(app.conf.redis_backend_use_ssl)
    lacks = {word for url in backend.split(";") for word in _url_lacks(url, tls, False)}
    if not lacks:
        return []
    accepted = app.conf.result_accept_content
    pickled = _PICKLE & set(app.conf.accept_content if accepted is None else accepted)
    more = " It accepts pickle, so who can write there can run code in your processes."
    return [
        checks.Warning(
            f'The result backend of the Celery app "{app.main}" is reached over the network without'
            f" {_both(sorted(lacks))}: who is on that network can read and change results."
            f"{more if pickled else ''}",
            hint=(
                'Use TLS and a password, or the backends "async-cache-db" and "async-cache", which '
                "seal what is pickled. Where only your own servers are on that network, silence "
                "this check."
            ),
            id="async_cache.W106",
        )
    ]


def _url_lacks(url: str, tls: bool, proven: bool) -> list[str]:
    parts = urlsplit(url)
    if parts.scheme not in _NETWORK or is_local(parts.hostname):
        return []
    query = parse_qs(parts.query)
    password = parts.password or query.get("password") or query.get("credential_provider")
    lacks = [] if proven or (password and password != _GUEST) else ["a password"]
    secure = tls or parts.scheme in _TLS or query.get("ssl") or query.get("tls")
    return lacks if secure else [*lacks, "TLS"]


def _both(words: Iterable[str]) -> str:
    return " and ".join(words)
