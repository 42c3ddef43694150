# ruff: noqa: D102  (the contract, in base.py, documents the operations)
"""Refresh in a Celery worker.

Celery is imported when the first message is published, in the publisher's thread: a reader of a
stale value does not wait for that. Messages go over a broker connection of our own, with short
timeouts and without retries, since Celery's own publish may block for minutes on a silent broker.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
import weakref
from dataclasses import dataclass
from importlib import import_module
from time import monotonic
from typing import Any, Final

from async_cache.conf import get_settings
from async_cache.dispatchers.base import Dispatcher, Refresh
from async_cache.exceptions import ConfigurationError, DispatchFailed
from async_cache.messages import seal_message
from async_cache.secret_keys import get_ring

__all__ = ["CeleryDispatcher"]

KILL_SECONDS: Final = 10.0
"""Between the soft time limit, which is the job's ``fetch_timeout``, and the hard one."""

IDLE_SECONDS: Final = 30.0
"""A connection unused for longer is not trusted: a broker or a firewall may have dropped it."""

# Connections of the parent process are kept, not closed: closing one may shut down its socket
# under the parent. One at most for each level of forking.
_inherited: list[Any] = []


@dataclass(slots=True)
class _Link:
    """A connection to the broker, and what it was made for."""

    app: Any
    broker: tuple[Any, dict[str, Any]]
    seconds: float
    connection: Any
    producer: Any
    used_at: float


class CeleryDispatcher(Dispatcher):
    """Publishes refreshes as the Celery task ``async_cache.refresh``."""

    name = "celery"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._link: _Link | None = None
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
        task = app.tasks["async_cache.refresh"]
        sealed = seal_message(refresh.message, get_ring())
        if app.conf.task_always_eager:
            _run_eagerly(task, sealed, refresh)
            return
        if self._pid != os.getpid():
            self._leave_behind()
        seconds = get_settings().publish_timeout
        if not self._lock.acquire(timeout=seconds):
            raise DispatchFailed("Another thread is publishing, and the broker is slow.")
        try:
            self._publish(app, task, sealed, refresh, seconds)
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

    def _publish(self, app: Any, task: Any, sealed: str, refresh: Refresh, seconds: float) -> None:
        from kombu.exceptions import OperationalError

        failures: tuple[type[BaseException], ...] = (OperationalError, OSError)
        refusals: tuple[type[BaseException], ...] = ()
        try:
            link = self._connect(app, seconds)
            failures += tuple(link.connection.connection_errors)
            refusals = tuple(link.connection.channel_errors)
            task.apply_async(
                args=(sealed,),
                producer=link.producer,
                task_id=refresh.task_id,
                retry=False,
                ignore_result=True,
                add_to_parent=False,
                serializer="json",
                argsrepr=f"({refresh.summary})",
                kwargsrepr="{}",
                expires=refresh.expires,
                soft_time_limit=math.ceil(refresh.fetch_timeout),
                time_limit=math.ceil(refresh.fetch_timeout + KILL_SECONDS),
                **({"queue": refresh.queue} if refresh.queue else {}),
                **_confirm(link, seconds),
                **refresh.options,
            )
            link.used_at = monotonic()
        except BaseException as error:
            # Whatever it was, the exchange may be half done.
            self._drop()
            # A broker that answers, but refuses: a queue of other properties, memory used up. That
            # concerns this message, and others need not wait for it.
            refused = isinstance(error.__cause__ or error, refusals)
            if isinstance(error, failures) and not refused:
                raise DispatchFailed(
                    f"The broker of the Celery app {app.main!r} took no message: "
                    f"{type(error).__qualname__}."
                ) from error
            raise

    def _connect(self, app: Any, seconds: float) -> _Link:
        broker = app.conf.broker_write_url, dict(app.conf.broker_transport_options or {})
        link = self._link
        if link is not None:
            usable = (
                link.app is app
                and link.broker == broker
                and link.seconds == seconds
                and monotonic() - link.used_at < IDLE_SECONDS
            )
            if usable:
                return link
            self._drop()
        connection = app.connection_for_write(connect_timeout=seconds, heartbeat=0)
        # Kept before it is open, so that a failure on the way closes it too.
        self._link = link = _Link(app, broker, seconds, connection, None, monotonic())
        hosts = max(1, len(connection.alt or ()))
        connection.transport_options.update(_bounds(connection, seconds, hosts))
        # The pause between tries is none: with several hosts each is tried once, with one it is not
        # tried again.
        connection.ensure_connection(
            max_retries=hosts - 1,
            interval_start=0,
            interval_step=0,
            interval_max=0,
            timeout=seconds * hosts,
        )
        link.producer = app.amqp.Producer(connection, auto_declare=False)
        return link

    def _drop(self) -> None:
        link, self._link = self._link, None
        if link is None:
            return
        # The connection is broken or given up: what its end has to say is of no use.
        with contextlib.suppress(Exception):
            if hasattr(link.connection.get_transport_cls(), "_collect"):
                link.connection.collect()  # AMQP says good-bye only after a round trip
            else:
                link.connection.release()


def _is_fallback(app: Any) -> bool:
    """Tell whether this is the app that Celery makes up when a project has none."""
    return bool(app.main == "default" and not app.set_as_current)


def _bounds(connection: Any, seconds: float, hosts: int) -> dict[str, Any]:
    """Return the transport options that bound each step; other transports have none."""
    driver = connection.get_transport_cls().driver_type
    tries = {
        "max_retries": hosts - 1,
        "interval_start": 0,
        "interval_step": 0,
        "interval_max": 0,
    }
    if driver == "redis":
        sockets = {"socket_timeout": seconds, "socket_connect_timeout": seconds}
        options: dict[str, Any] = {**tries, **sockets, "retry_on_timeout": False}
        if connection.transport_cls == "sentinel":
            options["sentinel_kwargs"] = _sentinel_bounds(connection, sockets)
        return options
    if driver == "amqp":
        # Without confirms a message to a silent broker is lost without a word.
        return {
            **tries,
            "read_timeout": seconds,
            "write_timeout": seconds,
            "confirm_publish": True,
        }
    return {}


def _sentinel_bounds(connection: Any, sockets: dict[str, Any]) -> dict[str, Any]:
    """Return options for the connections to the sentinels: redis-py tries these four times."""
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    given = connection.transport_options.get("sentinel_kwargs") or {}
    return {**given, **sockets, "retry": Retry(NoBackoff(), 0)}


def _confirm(link: _Link, seconds: float) -> dict[str, Any]:
    if link.connection.transport_options.get("confirm_publish"):
        return {"confirm_timeout": seconds}
    return {}


def _run_eagerly(task: Any, sealed: str, refresh: Refresh) -> None:
    result = task.apply(args=(sealed,), task_id=refresh.task_id, throw=False)
    if result.failed():
        raise DispatchFailed(
            f"The eager refresh ended with {type(result.result).__qualname__}."
        ) from result.result
