"""A connection to the broker of a Celery app on which every step is bounded."""

from __future__ import annotations

import contextlib
from time import monotonic
from typing import Any, Final

__all__ = ["Link"]

IDLE_SECONDS: Final = 30.0
"""A connection unused for longer is not trusted: a broker or a firewall may have dropped it."""


class Link:
    """A connection to the broker, and what it was made for.

    Args:
        app: The Celery app.
        seconds: Longest wait of one step.
    """

    __slots__ = ("_app", "_broker", "_seconds", "connection", "producer", "used_at")

    def __init__(self, app: Any, seconds: float) -> None:
        self._app = app
        self._broker = _broker_of(app)
        self._seconds = seconds
        self.connection: Any = app.connection_for_write(connect_timeout=seconds, heartbeat=0)
        self.producer: Any = None
        self.used_at = monotonic()

    def serves(self, app: Any, seconds: float) -> bool:
        """Tell whether it is the right one, and was in use a moment ago."""
        return (
            self._app is app
            and self._broker == _broker_of(app)
            and self._seconds == seconds
            and monotonic() - self.used_at < IDLE_SECONDS
        )

    def open(self) -> None:
        """Connect; each host is tried once."""
        hosts = max(1, len(self.connection.alt or ()))
        self.connection.transport_options.update(_bounds(self.connection, self._seconds, hosts))
        # The pause between tries is none: with several hosts each is tried once, with one it is not
        # tried again.
        self.connection.ensure_connection(
            max_retries=hosts - 1,
            interval_start=0,
            interval_step=0,
            interval_max=0,
            timeout=self._seconds * hosts,
        )
        self.producer = self._app.amqp.Producer(self.connection, auto_declare=False)

    def errors(self) -> tuple[tuple[type[BaseException], ...], tuple[type[BaseException], ...]]:
        """Return the exceptions of a broker that does not answer, and of one that refuses."""
        from kombu.exceptions import OperationalError

        failures = (OperationalError, OSError, *self.connection.connection_errors)
        return failures, tuple(self.connection.channel_errors)

    def confirms(self) -> dict[str, Any]:
        """Return the options of a publish that the broker confirms, where it can."""
        if self.connection.transport_options.get("confirm_publish"):
            return {"confirm_timeout": self._seconds}
        return {}

    def close(self) -> None:
        """Give the connection up."""
        # It is broken, or not needed: what its end has to say is of no use.
        with contextlib.suppress(Exception):
            if hasattr(self.connection.get_transport_cls(), "_collect"):
                self.connection.collect()  # AMQP says good-bye only after a round trip
            else:
                self.connection.release()


def _broker_of(app: Any) -> tuple[Any, dict[str, Any]]:
    return app.conf.broker_write_url, dict(app.conf.broker_transport_options or {})


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
