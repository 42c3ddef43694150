"""Find the value of each option of a job: settings, constructor, class, defaults, in this order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from async_cache.conf import get_settings
from async_cache.options import DEFAULTS, clean_option, clean_options

__all__ = ["COMPUTED", "configured", "is_computed", "resolve_options"]

COMPUTED: Final = frozenset({"ttl", "tags"})
"""Options that a class may give as a method: ``ttl(self, value)``, ``tags(self, *arguments)``."""

_UNSET: Final = object()


def configured(name: str) -> Mapping[str, Any]:
    """Return the options that ``ASYNC_CACHE["JOBS"]`` gives a job.

    Args:
        name: The job's name. For ``"shop.jobs.Users:auth.User"`` an entry of that name wins over
            one for ``"shop.jobs.Users"``, which is about every model.
    """
    jobs = get_settings().jobs
    kind, colon, _ = name.partition(":")
    general = jobs.get(kind, {}) if colon else {}
    return {**general, **jobs.get(name, {})}


def is_computed(option: str, value: object) -> bool:
    """Say whether an attribute of a class gives the option only once there is an instance."""
    return isinstance(value, property) or (option in COMPUTED and callable(value))


def resolve_options(job: object, name: str, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return every option in its final form; a computed one as a bound method.

    Args:
        job: The job's instance.
        name: Its name in ``ASYNC_CACHE["JOBS"]``.
        keywords: Options given to the constructor.

    Raises:
        ConfigurationError: An option of the class or the constructor is unknown or bad.
    """
    chosen: dict[str, Any] = dict(get_settings().defaults)
    for option in DEFAULTS:
        value = getattr(job, option, _UNSET)
        if value is _UNSET:
            continue
        computed = option in COMPUTED and callable(value)
        chosen[option] = value if computed else clean_option(name, option, value)
    chosen.update(clean_options(name, keywords))
    chosen.update(configured(name))
    return chosen
