"""Checks for ``manage.py check --deploy``: what a stranger could do with the cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from django.apps import AppConfig
from django.conf import settings as django_settings
from django.core import checks
from django.core.cache.backends.base import BaseCache
from django.core.cache.backends.dummy import DummyCache
from django.core.cache.backends.locmem import LocMemCache
from django.core.exceptions import ImproperlyConfigured

from async_cache.checks.caches import describe, load_caches, reads_raw_bytes
from async_cache.conf import find_problems

__all__ = ["check_backends", "check_secret_key"]

_MIN_LENGTH: Final = 50
_MIN_UNIQUE: Final = 5
_INSECURE_PREFIX: Final = "django-insecure-"


def check_secret_key(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """Name a weak key: entries and messages are sealed with it."""
    try:
        keys: dict[str, str | bytes] = {"SECRET_KEY": django_settings.SECRET_KEY}
    except ImproperlyConfigured:
        return []  # Django's own check says so
    for number, key in enumerate(django_settings.SECRET_KEY_FALLBACKS):
        keys[f"SECRET_KEY_FALLBACKS[{number}]"] = key
    return [
        checks.Warning(
            f"{name} is weak, and cache entries and messages are sealed with it: who guesses it "
            "can forge them.",
            hint=(
                f"Use {_MIN_LENGTH} or more random characters: `python -c 'import secrets; "
                "print(secrets.token_urlsafe(50))'`."
            ),
            id="async_cache.W101",
        )
        for name, key in keys.items()
        if _is_weak(key)
    ]


def _is_weak(key: str | bytes) -> bool:
    text = key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)
    return (
        len(text) < _MIN_LENGTH or len(set(text)) < _MIN_UNIQUE or text.startswith(_INSECURE_PREFIX)
    )


def check_backends(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """Name the caches whose backend unpickles stored bytes before their seal can be checked."""
    if find_problems():
        return []  # stores cannot be made from a setting that is wrong; its own errors come first
    return [
        checks.Warning(
            f"{describe(alias)} unpickles what it reads before async_cache can check its seal: who "
            "can write to this cache can run code in your processes.",
            hint=(
                "Let only your own servers write to it, or use a Redis server: there async_cache "
                "reads raw bytes and checks them first."
            ),
            id="async_cache.W102",
        )
        for alias, cache in load_caches()[0].items()
        if _unpickles(alias, cache)
    ]


def _unpickles(alias: str, cache: BaseCache) -> bool:
    # These two hold nothing that another process could have written.
    return not isinstance(cache, DummyCache | LocMemCache) and not reads_raw_bytes(alias)
