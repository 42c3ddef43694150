"""Checks of what Celery is told of results; ids are listed in `async_cache.results.checks`."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any, Final

from django.apps import AppConfig
from django.core import checks

from async_cache.checks.dispatch import used_dispatchers
from async_cache.conf import current_or_partial
from async_cache.exceptions import ConfigurationError
from async_cache.results.aliases import SCHEME, choose_alias, choose_server
from async_cache.validators import suggest

__all__ = ["backend_alias", "check_app", "check_backend"]

_CACHE: Final = "async-cache"


def check_app(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """Say that no Celery app is loaded, where the core does not: `async_task` needs one."""
    if not current_or_partial().enabled or "celery" in used_dispatchers():
        return []
    app = _current_app()
    if app is None or _is_loaded(app):
        return []
    return [
        checks.Warning(
            "No Celery app of this project is loaded: calls of async_task go to a broker on "
            "localhost that no worker of yours reads.",
            hint=(
                "Create the app in <project>/celery.py and import it in <project>/__init__.py: "
                "`from .celery import app as celery_app`."
            ),
            id="async_cache_results.W004",
        )
    ]


def check_backend(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """Name a result backend of this project's that is misspelt or has nowhere to write."""
    name, url, app = _backend()
    try:
        if name == _CACHE:
            choose_alias(url, app.conf.get("cache_backend"))
        elif name == SCHEME and not (url is None and app.conf.get("redis_host")):
            choose_server(url)
    except ConfigurationError as error:
        number = "E005" if name == _CACHE else "E006"
        return [checks.Error(str(error), id=f"async_cache_results.{number}")]
    known = {point.name for point in entry_points(group="celery.result_backends")}
    known |= set(app.loader.override_backends) if app is not None else set()
    if not name.startswith(_CACHE) or name in known:
        return []
    return [
        checks.Error(
            f'The result backend of the Celery app "{app.main}" is "{name}", which does not exist.',
            hint=suggest(name, {word for word in known if word.startswith(_CACHE)}),
            id="async_cache_results.E007",
        )
    ]


def backend_alias() -> str | None:
    """Return the cache that Celery's result backend writes to, when it is one of this project's."""
    name, url, app = _backend()
    if name != _CACHE:
        return None
    try:
        return choose_alias(url, app.conf.get("cache_backend"))
    except ConfigurationError:
        return None  # `check_backend` says so


def _backend() -> tuple[str, str | None, Any]:
    """Return the name and the URL of the app's result backend, as Celery reads them."""
    app = _current_app()
    chosen = app.backend_cls or app.conf.result_backend if _is_loaded(app) else None
    if not isinstance(chosen, str):
        return "", None, app
    scheme, is_url, _ = chosen.partition("://")
    if not is_url:
        return chosen, None, app
    if "+" in scheme:
        name, _, url = chosen.partition("+")
        return name, url, app
    return scheme, chosen, app


def _current_app() -> Any:
    """Return Celery's app; imported by name, so that who has no Celery can run the checks."""
    if importlib.util.find_spec("celery") is None:
        return None
    return importlib.import_module("celery").current_app


def _is_loaded(app: Any) -> bool:
    return app is not None and (app.main != "default" or app.configured)
