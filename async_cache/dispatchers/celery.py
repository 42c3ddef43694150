# ruff: noqa: D102  (the contract, in base.py, documents the operations)
"""Refresh in a Celery worker, and send other sealed messages to one.

Celery is imported when the first message is published, in the publisher's thread: a reader of a
stale value does not wait for that. Messages go over a broker connection of our own, with short
timeouts and without retries, since Celery's own publish may block for minutes on a silent broker.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import weakref
from collections.abc import Mapping
from importlib import import_module
from time import monotonic
from typing import Any, Final, NamedTuple

from async_cache.conf import get_settings
from async_cache.dispatchers.base import Dispatcher, Refresh
from async_cache.dispatchers.broker import Link
from async_cache.exceptions import ConfigurationError, DispatchFailed
from async_cache.messages import seal_message
from async_cache.secret_keys import get_ring

__all__ = ["BrokerBusy", "CeleryDispatcher"]

_REFRESH: Final = "async_cache.refresh"

KILL_SECONDS: Final = 10.0
"""Between the soft time limit, which is the job's ``fetch_timeout``, and the hard one."""

# Connections of the parent process are kept, not closed: closing one may shut down its socket
# under the parent. One at most for each level of forking.
_inherited: list[Any] = []


class BrokerBusy(DispatchFailed):
    """Another thread has been waiting for the broker for as long as one may."""


class _Letter(NamedTuple):
    """What `CeleryDispatcher.send` was given."""

    sealed: str
    task_id: str
    summary: str
    timeout: float | None
    expires: float | None
    options: Mapping[str, Any]


class CeleryDispatcher(Dispatcher):
    """Publishes refreshes as the Celery task ``async_cache.refresh``."""

    name = "celery"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._link: Link | None = None
        self._app: weakref.ref[Any] | None = None

    @property
    def inline(self) -> bool:
        # An app that runs tasks eagerly exists, so Celery has been imported.
        if "celery" not in sys.modules:
            return False
        return bool(self._find_app().conf.task_always_eager)

    @property
    def needs_worker(self) -> bool:
        return not self.inline

    def prepare(self) -> None:
        app = self._load()
        _ = app.amqp.router  # reads the configuration

    def dispatch(self, refresh: Refresh) -> None:
        app = self._load()
        sealed = seal_message(refresh.message, get_ring())
        if app.conf.task_always_eager:
            _run_eagerly(app.tasks[_REFRESH], sealed, refresh)
            return
        self.send(
            _REFRESH,
            sealed,
            task_id=refresh.task_id,
            summary=refresh.summary,
            timeout=refresh.fetch_timeout,
            expires=refresh.expires,
            options={**({"queue": refresh.queue} if refresh.queue else {}), **refresh.options},
        )

    def send(
        self,
        name: str,
        sealed: str,
        *,
        task_id: str,
        summary: str,
        timeout: float | None = None,
        expires: float | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Publish one message of a task, with ``PUBLISH_TIMEOUT`` for each step; retry nothing.

        Args:
            name: The task, which has been imported.
            sealed: Its one argument.
            task_id: Its id.
            summary: What logs and monitors may show of it.
            timeout: Seconds that it may run; None for the task's own limits.
            expires: Seconds after which nobody needs to begin; None for never.
            options: Further options of ``apply_async``.

        Raises:
            DispatchFailed: The broker takes no messages now.
            Exception: The broker answers, and refuses this message.
        """
        app = self._find_app()
        if self._pid != os.getpid():
            self._leave_behind()
        seconds = get_settings().publish_timeout
        if not self._lock.acquire(timeout=seconds):
            raise BrokerBusy(
                f"Another thread has waited for the broker of the Celery app {app.main!r} for "
                f"{seconds:g} s. {_remedy(seconds)}"
            )
        letter = _Letter(sealed, task_id, summary, timeout, expires, options or {})
        try:
            known, begun = self._link is not None, monotonic()
            try:
                self._publish(app, app.tasks[name], letter, seconds)
            except DispatchFailed:
                # A connection that was lost since its last use fails at once; a silent broker
                # takes its time.
                if not known or monotonic() - begun > seconds / 2:
                    raise
                self._publish(app, app.tasks[name], letter, seconds)
        finally:
            self._lock.release()

    def close(self) -> None:
        if self._pid == os.getpid() and self._lock.acquire(timeout=1.0):
            try:
                self._drop()
            finally:
                self._lock.release()

    def _leave_behind(self) -> None:
        """Begin afresh in a child process."""
        if self._link is not None:
            _inherited.append(self._link)
        self._link = None
        self._lock = threading.Lock()
        self._pid = os.getpid()

    # --- the app ----------------------------------------------------------------------------------

    def _load(self) -> Any:
        import_module("async_cache.tasks")
        return self._find_app()

    def _find_app(self) -> Any:
        """Return the project's Celery app.

        Celery knows a current app in the thread that made it and elsewhere falls back to an
        unconfigured one. Readers and the publisher run in other threads, so the app is looked for.
        """
        from celery import _state as celery_state

        _state: Any = celery_state  # what is needed of it has no public name
        own = _state._tls.current_app
        if own is not None:
            self._app = weakref.ref(own)
            return own
        kept = self._app() if self._app is not None else None
        if kept is not None:
            return kept
        default = _state.default_app
        if default is None or _is_fallback(default):
            apps = [app for app in list(_state._get_active_apps()) if not _is_fallback(app)]
            if len(apps) > 1:
                names = ", ".join(sorted(str(app.main) for app in apps))
                raise ConfigurationError(
                    f"There are several Celery apps ({names}). Call set_default() on the one whose "
                    "workers refresh the cache."
                )
            default = apps[0] if apps else _state.get_current_app()
        if not _is_fallback(default):
            self._app = weakref.ref(default)
        return default

    # --- the connection ---------------------------------------------------------------------------

    def _publish(self, app: Any, task: Any, letter: _Letter, seconds: float) -> None:
        link = self._connect(app, seconds)
        failures, refusals = link.errors()
        soft = None if letter.timeout is None else math.ceil(letter.timeout)
        try:
            task.apply_async(
                args=(letter.sealed,),
                producer=link.producer,
                task_id=letter.task_id,
                retry=False,
                ignore_result=True,
                add_to_parent=False,
                serializer="json",
                argsrepr=f"({letter.summary})",
                kwargsrepr="{}",
                expires=letter.expires,
                soft_time_limit=soft,
                time_limit=None if soft is None else math.ceil(soft + KILL_SECONDS),
                **link.confirms(),
                **letter.options,
            )
            link.used_at = monotonic()
        except BaseException as error:
            # Whatever it was, the exchange may be half done.
            self._drop()
            # A broker that answers, but refuses: a queue of other properties, memory used up. That
            # concerns this message, and others need not wait for it.
            refused = isinstance(error.__cause__ or error, refusals)
            if isinstance(error, failures) and not refused:
                raise _took_nothing(app, error, seconds) from error
            raise

    def _connect(self, app: Any, seconds: float) -> Link:
        link = self._link
        if link is not None:
            if link.serves(app, seconds):
                return link
            self._drop()
        link = Link(app, seconds)
        failures, refusals = link.errors()
        try:
            link.open()
        except BaseException as error:
            link.close()
            # A broker that refuses a client (who it is, how many there are) refuses all messages.
            if isinstance(error, failures + refusals):
                raise _took_nothing(app, error, seconds) from error
            raise
        self._link = link
        return link

    def _drop(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()


def _took_nothing(app: Any, error: BaseException, seconds: float) -> DispatchFailed:
    if _is_fallback(app):
        return DispatchFailed(
            "No Celery app of this project is loaded, and a broker on localhost took no message: "
            f"{type(error).__qualname__}. Create the app in <project>/celery.py and import it in "
            "<project>/__init__.py."
        )
    return DispatchFailed(
        f"The broker of the Celery app {app.main!r} took no message: "
        f"{type(error).__qualname__}. {_remedy(seconds)}"
    )


def _remedy(seconds: float) -> str:
    return (
        "See that the server of its broker_url runs and can be reached from here; if it is only "
        f'slow, raise ASYNC_CACHE["PUBLISH_TIMEOUT"], now {seconds:g} s.'
    )


def _is_fallback(app: Any) -> bool:
    """Tell whether this is the app that Celery makes up when a project has none."""
    return bool(app.main == "default" and not app.set_as_current)


def _run_eagerly(task: Any, sealed: str, refresh: Refresh) -> None:
    result = task.apply(args=(sealed,), task_id=refresh.task_id, throw=False)
    if result.failed():
        raise DispatchFailed(
            f"The eager refresh ended with {type(result.result).__qualname__}."
        ) from result.result
