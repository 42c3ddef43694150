"""The closed registry of jobs: what a message may name.

A job registers itself when its class is made. A worker that meets an unknown name imports the
module it lies in only when that is a module of the project: of an installed app, of the package of
``ROOT_URLCONF``, or one that ``ASYNC_CACHE["JOB_MODULES"]`` lists.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.conf import settings

from async_cache.conf import get_settings
from async_cache.exceptions import UnknownJob

if TYPE_CHECKING:
    from async_cache.jobs.base import AsyncCacheJob

__all__ = ["all_jobs", "duplicates", "get_job", "may_import", "register"]

_jobs: dict[str, type[AsyncCacheJob[Any]]] = {}
_places: dict[str, set[str]] = {}
_lock = threading.Lock()


def register(name: str, job: type[AsyncCacheJob[Any]]) -> None:
    """Add a job; a class made again at the same place, as by a reload, replaces the older one."""
    place = f"{job.__module__}.{job.__qualname__}"
    with _lock:
        _jobs[name] = job
        _places.setdefault(name, set()).add(place)


def all_jobs() -> Mapping[str, type[AsyncCacheJob[Any]]]:
    """Return the registered jobs by name."""
    with _lock:
        return MappingProxyType(dict(_jobs))


def duplicates() -> Mapping[str, frozenset[str]]:
    """Return the names that several classes claim, each with the classes' dotted paths."""
    with _lock:
        return {name: frozenset(places) for name, places in _places.items() if len(places) > 1}


def get_job(name: str, module: str = "") -> type[AsyncCacheJob[Any]]:
    """Return the job of that name, importing its module where that is allowed.

    Args:
        name: The job's name.
        module: Where its class is defined, when the name does not tell.

    Raises:
        UnknownJob: There is none; the message says why and what to do.
    """
    job = _jobs.get(name)
    if job is not None:
        return job
    parts = name.split(".")
    paths = [".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]
    for path in [module, *paths] if module else paths:
        if not may_import(path):
            continue
        try:
            importlib.import_module(path)
        except ModuleNotFoundError as error:
            if error.name is not None and (path == error.name or path.startswith(error.name)):
                continue  # a class in a class: the module's path is shorter
            raise UnknownJob(f"{name!r}: its module cannot be imported: {error}.") from error
        except Exception as error:
            raise UnknownJob(f"{name!r}: its module cannot be imported: {error!r}.") from error
        job = _jobs.get(name)
        if job is not None:
            return job
    raise UnknownJob(
        f"No job is named {name!r} here. Jobs are found in the `jobs` modules of installed apps, "
        "and by their dotted path in installed apps, in the package of ROOT_URLCONF and in "
        'ASYNC_CACHE["JOB_MODULES"]. If it was renamed, keep the old name in its `name` attribute.'
    )


def may_import(module: str) -> bool:
    """Say whether a job's module is one of the project's."""
    roots = [config.name for config in apps.get_app_configs()]
    urlconf = getattr(settings, "ROOT_URLCONF", None)
    if isinstance(urlconf, str):
        roots.append(urlconf.partition(".")[0])
    roots.extend(get_settings().job_modules)
    return any(module == root or module.startswith(f"{root}.") for root in roots)
