"""Checks for ``manage.py check --deploy``: who can reach the cache and the broker."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from django.apps import AppConfig
from django.conf import settings as django_settings
from django.core import checks

from async_cache.checks.caches import describe, load_caches
from async_cache.checks.dispatch import used_dispatchers
from async_cache.conf import current_or_partial, find_problems

__all__ = ["check_broker_access", "check_cache_access"]

_PICKLE: Final = frozenset({"pickle", "application/x-python-serialize"})
_TLS: Final = frozenset({"rediss", "amqps", "sqs", "gcpubsub"})
_NETWORK: Final = frozenset({"redis", "rediss", "amqp", "amqps", "pyamqp", "sentinel"})
_GUEST: Final = "guest"


def check_cache_access(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """Name the Redis caches on other hosts that anybody on the way can read or write."""
    if find_problems():
        return []  # its own errors come first
    found: list[checks.CheckMessage] = []
    for alias in load_caches()[0]:
        options = django_settings.CACHES[alias].get("OPTIONS") or {}
        lacks = sorted({word for url in _locations(alias) for word in _lacking(url, options)})
        if lacks:
            found.append(
                checks.Warning(
                    f"{describe(alias)} is reached over the network without {_both(lacks)}: who is "
                    "on that network can read what is cached, and drop or withhold it.",
                    hint=(
                        "Use a rediss:// URL with a password. Where only your own servers are on "
                        "that network, silence this check."
                    ),
                    id="async_cache.W103",
                )
            )
    return found


def _locations(alias: str) -> list[str]:
    location = django_settings.CACHES[alias].get("LOCATION") or []
    listed = location if isinstance(location, list | tuple) else str(location).split(",")
    return [str(one) for one in listed if urlsplit(str(one)).scheme in {"redis", "rediss"}]


def _lacking(url: str, options: Mapping[str, Any]) -> list[str]:
    """Return what the way to a Redis server lacks: a password, TLS."""
    parts = urlsplit(url)
    if is_local(parts.hostname):
        return []
    given = {str(name).lower(): value for name, value in options.items()}
    asked = parse_qs(parts.query)
    password = parts.password or asked.get("password") or given.get("password")
    lacks = [] if password else ["a password"]
    if parts.scheme not in _TLS and not given.get("ssl"):
        lacks.append("TLS")
    return lacks


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
    return [*_check_pickle(app), *_check_way(app)]


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
    connection = app.connection_for_write()
    urls = connection.alt or [connection.as_uri(include_password=True)]
    lacks = sorted({word for url in urls for word in _broker_lacks(str(url), bool(connection.ssl))})
    if not lacks:
        return []
    return [
        checks.Warning(
            f'The broker of the Celery app "{app.main}" is reached over the network without '
            f"{_both(lacks)}: who is on that network can read the arguments of calls, drop their "
            "messages, or hold them back. Forged messages are refused.",
            hint=(
                "Use TLS and a password of your own. Where only your own servers are on that "
                "network, silence this check."
            ),
            id="async_cache.W105",
        )
    ]


def _broker_lacks(url: str, tls: bool) -> list[str]:
    parts = urlsplit(url)
    if parts.scheme not in _NETWORK or is_local(parts.hostname):
        return []
    lacks = [] if parts.password and parts.password != _GUEST else ["a password"]
    if not tls and parts.scheme not in _TLS:
        lacks.append("TLS")
    return lacks


def _both(words: Iterable[str]) -> str:
    return " and ".join(words)
