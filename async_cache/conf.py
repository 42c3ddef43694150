"""The ``ASYNC_CACHE`` setting, typed.

`get_settings` reads it on access and keeps the answer until Django announces a change, so
``override_settings`` works. `epoch` grows with each change: whoever derives something costly from
settings keeps the epoch beside it and compares.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final

from django.conf import settings as django_settings
from django.core.signals import setting_changed

from async_cache import validators
from async_cache.exceptions import ConfigurationError
from async_cache.options import (
    DEFAULTS,
    OPTIONS,
    Problem,
    check_options,
    inspect_options,
    seconds,
)
from async_cache.validators import Refused, Validator, suggest

__all__ = [
    "DEFAULTS",
    "KNOWN_SECTIONS",
    "OPTIONS",
    "SETTING",
    "Problem",
    "Settings",
    "check_options",
    "current_or_partial",
    "find_problems",
    "get_settings",
    "register_section",
    "registered_sections",
    "seconds",
]

SETTING: Final = "ASYNC_CACHE"

# Sections of the apps that ship with the package: known before those apps are loaded.
KNOWN_SECTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "RESULTS": "async_cache.results",
        "SCHEDULES": "async_cache.schedules",
        "MONITOR": "async_cache.monitor",
    }
)

# What objects derived from settings depend on: stores, key rings, the registry's closed list.
_WATCHED: Final = frozenset(
    {SETTING, "CACHES", "SECRET_KEY", "SECRET_KEY_FALLBACKS", "ROOT_URLCONF", "INSTALLED_APPS"}
)

epoch: int = 0
"""Grows whenever a setting that derived objects depend on changes."""


def _nothing() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Settings:
    """The ``ASYNC_CACHE`` setting with its defaults applied. Durations are seconds.

    Attributes:
        cache: Alias of ``CACHES`` that holds the entries.
        dispatcher: Name of a dispatcher or a dotted path to one.
        key_prefix: First part of every cache key.
        defaults: A value for every option of a job.
        jobs: Options by job name; they win over the class and its constructor.
        job_modules: Modules, or packages of them, that a worker may import jobs from.
        max_lifetime: Cap of ttl + grace, and the life of a new stamp.
        io_timeout: Longest wait for one exchange with the cache.
        publish_timeout: Longest wait for one publish, off the request path.
        queue_size: Refreshes that may wait for the publisher thread.
        enabled: False turns caching off: every get fetches.
        max_value_size: Largest value in bytes, before and after compression.
        sections: What other apps read: raw values by registered section name.
    """

    cache: str = "default"
    dispatcher: str = "celery"
    key_prefix: str = "ac"
    defaults: Mapping[str, Any] = field(default_factory=lambda: DEFAULTS)
    jobs: Mapping[str, Mapping[str, Any]] = field(default_factory=_nothing)
    job_modules: tuple[str, ...] = ()
    max_lifetime: float = timedelta(days=30).total_seconds()
    io_timeout: float = 0.25
    publish_timeout: float = 0.3
    queue_size: int = 1000
    enabled: bool = True
    max_value_size: int = 16 * 1024 * 1024
    sections: Mapping[str, Any] = field(default_factory=_nothing)


_KEYS: Final[Mapping[str, tuple[str, Validator]]] = MappingProxyType(
    {
        "CACHE": ("cache", validators.text("an alias of CACHES")),
        "DISPATCHER": ("dispatcher", validators.dispatcher),
        "KEY_PREFIX": (
            "key_prefix",
            validators.matching("a key prefix", re.compile(r"[A-Za-z0-9_.-]{1,40}")),
        ),
        "JOB_MODULES": (
            "job_modules",
            validators.words("shop.jobs", re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")),
        ),
        "MAX_LIFETIME": ("max_lifetime", validators.duration(positive=True)),
        "IO_TIMEOUT": ("io_timeout", validators.duration(positive=True)),
        "PUBLISH_TIMEOUT": ("publish_timeout", validators.duration(positive=True)),
        "QUEUE_SIZE": ("queue_size", validators.integer(minimum=1)),
        "ENABLED": ("enabled", validators.boolean),
        "MAX_VALUE_SIZE": ("max_value_size", validators.integer(minimum=1)),
    }
)

_lock = threading.Lock()
_current: Settings | None = None
_sections: set[str] = set()
_section_keys: dict[str, frozenset[str]] = {}


def get_settings() -> Settings:
    """Return the settings in force.

    Raises:
        ConfigurationError: A key is unknown or a value is bad. The message names it and the
            remedy; ``manage.py check`` lists all of them.
    """
    current = _current
    return current if current is not None else _load()


def _load() -> Settings:
    global _current
    seen = epoch
    built, problems = inspect_setting(getattr(django_settings, SETTING, None))
    if problems:
        more = len(problems) - 1
        rest = f" ({more} more: run `manage.py check`.)" if more else ""
        raise ConfigurationError(f"{problems[0]}{rest}")
    with _lock:
        # A change announced while this was built must not be hidden by the older reading.
        if seen == epoch:
            _current = built
    return built


def find_problems() -> list[Problem]:
    """Return all that is wrong with the ``ASYNC_CACHE`` setting."""
    return inspect_setting(getattr(django_settings, SETTING, None))[1]


def current_or_partial() -> Settings:
    """Return the settings in force; where parts are bad, the rest with defaults for those parts.

    For checks and tools that must say something useful while the setting is wrong.
    """
    return inspect_setting(getattr(django_settings, SETTING, None))[0]


def register_section(name: str, keys: Iterable[str] = ()) -> None:
    """Allow a key of ``ASYNC_CACHE`` that another app reads from ``Settings.sections``.

    Args:
        name: The key, in capitals.
        keys: Those of the section, for hints.
    """
    if not name.isidentifier() or not name.isupper() or name in _KEYS or name in _DICTS:
        raise ConfigurationError(f"{name!r} cannot be a section of {SETTING}. Choose another name.")
    _sections.add(name)
    _section_keys[name] = frozenset(keys)
    reset()


def registered_sections() -> frozenset[str]:
    """Return the names of the sections that installed apps have registered."""
    return frozenset(_sections)


def reset() -> None:
    """Forget the settings read so far; the next access reads them again."""
    global _current, epoch
    with _lock:
        epoch += 1
        _current = None


def inspect_setting(raw: object) -> tuple[Settings, list[Problem]]:
    """Return the settings that hold and a problem for each part of ``raw`` that does not.

    Args:
        raw: The value of ``ASYNC_CACHE``; None when it is not set.
    """
    if raw is None:
        raw = {}
    if not isinstance(raw, Mapping):
        message = f"a {type(raw).__qualname__} is not a dict"
        problem = Problem("type", SETTING, message, 'Write ASYNC_CACHE = {"CACHE": "default"}.')
        return Settings(), [problem]
    problems: list[Problem] = []
    fields: dict[str, Any] = {}
    sections: dict[str, Any] = {}
    for key, value in raw.items():
        if key in _KEYS:
            name, validator = _KEYS[key]
            try:
                fields[name] = validator(value)
            except Refused as refused:
                where = f'{SETTING}["{key}"]'
                problems.append(Problem("value", where, refused.reason, refused.remedy))
        elif key in _DICTS:
            name, inspect = _DICTS[key]
            fields[name] = inspect(f'{SETTING}["{key}"]', value, problems)
        elif key in _sections or key in KNOWN_SECTIONS:
            sections[key] = value
        else:
            problems.append(_unknown_key(key))
    return Settings(**fields, sections=MappingProxyType(sections)), problems


def _unknown_key(key: object) -> Problem:
    known = {*_KEYS, *_DICTS, *KNOWN_SECTIONS, *_sections}
    hint = suggest(key, known)
    if isinstance(key, str) and key.lower() in OPTIONS and key.upper() not in known:
        hint = f'It is an option of jobs: write {SETTING}["DEFAULTS"]["{key.lower()}"].'
    places = [
        f'{SETTING}["{name}"]["{key}"]' for name, keys in _section_keys.items() if key in keys
    ]
    if places:
        hint = f"It belongs into a section: write {' or '.join(sorted(places))}."
    return Problem("unknown_key", SETTING, f"unknown key {key!r}", hint)


def _inspect_defaults(where: str, value: object, problems: list[Problem]) -> Mapping[str, Any]:
    cleaned, found = inspect_options(where, value)
    problems.extend(found)
    return MappingProxyType({**DEFAULTS, **cleaned})


def _inspect_jobs(
    where: str, value: object, problems: list[Problem]
) -> Mapping[str, Mapping[str, Any]]:
    if not isinstance(value, Mapping):
        hint = 'Write {"shop.jobs.Rates": {"ttl": 60}}.'
        message = f"a {type(value).__qualname__} is not a dict"
        problems.append(Problem("type", where, message, hint))
        return MappingProxyType({})
    jobs: dict[str, Mapping[str, Any]] = {}
    for name, entry in value.items():
        if not isinstance(name, str) or not name.strip():
            hint = (
                'Use the job\'s dotted path or its `name`: "shop.jobs.Rates", or '
                '"async_cache.QuerySetGetJob:auth.User".'
            )
            problems.append(Problem("type", where, f"{name!r} is not the name of a job", hint))
            continue
        cleaned, found = inspect_options(f'{where}["{name}"]', entry)
        problems.extend(found)
        jobs[name] = MappingProxyType(cleaned)
    return MappingProxyType(jobs)


_DICTS: Final = MappingProxyType(
    {"DEFAULTS": ("defaults", _inspect_defaults), "JOBS": ("jobs", _inspect_jobs)}
)


def _on_setting_changed(*, setting: str, **_: object) -> None:
    if setting in _WATCHED:
        reset()


setting_changed.connect(_on_setting_changed, dispatch_uid="async_cache.conf")
