# ruff: noqa: D102  (the contract, in waiting/topics.py, documents the operations)
"""The connection on which PostgreSQL tells of rows that become ready: LISTEN.

It is the thread's connection to that database, so what the thread asks goes the same way.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from async_cache.results.notices import CHANNEL, LISTENING, mark
from async_cache.results.waiting.topics import News, Topic, Wire

__all__ = ["PostgresWire"]

LOCK_MS: Final = 250
# A peer that is gone without a word is found out in half a minute.
_OPTIONS: Final = {
    "fallback_application_name": "async_cache results",
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}


class PostgresWire(Wire):
    """One channel for all topics; a payload holds marks of what became ready.

    Args:
        wrapper: Django's connection, of this thread alone.
    """

    def __init__(self, wrapper: BaseDatabaseWrapper) -> None:
        self._wrapper = wrapper
        self._driver: Any = wrapper.connection
        self._topics: dict[str, Topic] = {}
        self._payloads: list[str] = []

    @classmethod
    def open(cls, alias: str) -> PostgresWire | None:
        """Connect and listen; None where the driver has no way to hear."""
        wrapper = connections[alias].copy()
        options = dict(wrapper.settings_dict["OPTIONS"])
        # A connection that is kept for long is none of a pool's.
        options.pop("pool", None)
        wrapper.settings_dict["OPTIONS"] = _OPTIONS | options
        wrapper.settings_dict["AUTOCOMMIT"] = True
        connections[alias].close()
        connections[alias] = wrapper
        try:
            wrapper.ensure_connection()
            wire = cls(wrapper)
            if not wire._prepare():
                wire.close()
                return None
            with wrapper.cursor() as cursor:
                # Writers whose transactions are open do not know of us: they end first.
                cursor.execute(f"SET lock_timeout = {LOCK_MS}")
                cursor.execute("SELECT pg_advisory_lock_shared(%s)", [LISTENING])
                cursor.execute("RESET lock_timeout")
                cursor.execute(f"LISTEN {CHANNEL}")
        except BaseException:
            _drop(wrapper)
            raise
        return wire

    def _prepare(self) -> bool:
        """Have notifications kept that arrive while the thread asks something else."""
        if hasattr(self._driver, "add_notify_handler"):
            self._driver.add_notify_handler(lambda notify: self._payloads.append(notify.payload))
            return True
        return hasattr(self._driver, "notifies") and hasattr(self._driver, "poll")

    def fileno(self) -> int:
        return int(self._driver.fileno())

    def follow(self, topics: Collection[Topic]) -> None:
        self._topics |= {mark(topic): topic for topic in topics}

    def leave(self, topics: Collection[Topic]) -> None:
        for topic in topics:
            self._topics.pop(mark(topic), None)

    def hear(self) -> list[News]:
        self._read()
        payloads, self._payloads = self._payloads, []
        marks = dict.fromkeys(one for payload in payloads for one in payload.split())
        return [News(self._topics[one]) for one in marks if one in self._topics]

    def _read(self) -> None:
        pgconn: Any = getattr(self._driver, "pgconn", None)
        if hasattr(pgconn, "consume_input"):
            pgconn.consume_input()
            while (notify := pgconn.notifies()) is not None:
                self._payloads.append(notify.extra.decode())
        else:
            self._driver.poll()
            self._payloads += [notify.payload for notify in self._driver.notifies]
            del self._driver.notifies[:]

    def close(self) -> None:
        _drop(self._wrapper)


def _drop(wrapper: BaseDatabaseWrapper) -> None:
    """Close a connection and leave its place to another."""
    if connections[wrapper.alias] is wrapper:
        del connections[wrapper.alias]
    wrapper.close()
