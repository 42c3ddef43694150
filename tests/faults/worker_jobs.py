"""Jobs of the rows about workers: they tell what they do through Redis, and do what they are told.

A worker imports this module when it starts (`fleet`). What its environment names is then broken in
it, or its clock goes wrong.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final
from unittest import mock

import redis
from django.conf import settings

from async_cache import AsyncCacheJob, clock, signals
from async_cache.stores.base import Commit
from async_cache.stores.exchanges import Exchanges
from async_cache.stores.scripts import CLAIM, Script
from tests.faults.breaks import Break

__all__ = [
    "FETCH_SECONDS",
    "LEASE",
    "SKEWS",
    "Hanging",
    "Queued",
    "SlowlyQueued",
    "Timed",
    "Told",
    "board",
    "in_workers",
]

LEASE: Final = 1.0
FETCH_SECONDS: Final = 0.2

ORDERS, STARTED, REFUSED, FETCHED = "told:orders", "told:started", "told:refused", "told:fetched"
FETCHED_AT = "told:fetched_at"
NUMBER = "told:number"
PATIENCE = 60
"""Seconds after which a fetch that waits for its order goes on without it."""


def board() -> redis.Redis:
    """Return a client of the Redis through which jobs and tests talk; close it."""
    url = settings.CACHES["redis"]["LOCATION"]
    return redis.Redis.from_url(url, decode_responses=True, socket_timeout=2 * PATIENCE)


def go(number: int) -> str:
    """Return the name of the list by which fetch ``number`` is told to go on."""
    return f"told:go:{number}"


class Told(AsyncCacheJob[str]):
    """Fresh for long; a fetch says that it begins, and waits when it is told to."""

    ttl = 3600
    grace = 3600
    jitter = 0
    lease = LEASE
    fetch_timeout = 20

    def fetch(self, key: str) -> str:
        with board() as client:
            number = int(client.incr(NUMBER))
            waits = client.hget(ORDERS, key) == "wait"
            client.rpush(STARTED, f"{key} {number} {os.getpid()}")
            if waits:
                client.blpop([go(number)], PATIENCE)
            else:
                time.sleep(FETCH_SECONDS)
        return f"{key} {number} {os.getpid()}"


class Queued(AsyncCacheJob[str]):
    """Fresh for long once it is refreshed; counts its fetches."""

    ttl: float = 3600
    grace = 3600
    jitter = 0

    def fetch(self, key: str) -> str:
        with board() as client:
            return f"{key} {client.hincrby(FETCHED, key, 1)}"


class SlowlyQueued(Queued):
    """Always stale, and slower than its messages come."""

    ttl = 0
    lease = LEASE

    def fetch(self, key: str) -> str:
        time.sleep(0.05)
        return super().fetch(key)


class Timed(AsyncCacheJob[str]):
    """Says when each fetch begins and ends, by a clock that all processes of the machine share."""

    ttl = 3
    grace = 86_400
    jitter = 0
    lease = LEASE

    def fetch(self, key: str) -> str:
        begun = time.monotonic()
        time.sleep(FETCH_SECONDS)
        with board() as client:
            client.rpush(FETCHED_AT, f"{key} {begun} {time.monotonic()}")
        return f"{key} {begun}"


class Hanging(AsyncCacheJob[str]):
    """Hangs until it is stopped, when it is told to; ``deaf``: and does not listen then."""

    ttl = 0
    grace = 3600
    lease = LEASE
    fetch_timeout = 1

    def fetch(self, key: str) -> str:
        with board() as client:
            number = int(client.incr(NUMBER))
            order = client.hget(ORDERS, key)
            client.rpush(STARTED, f"{key} {number} {os.getpid()}")
        while order is not None:
            try:
                time.sleep(PATIENCE)
            except Exception:
                if order != "deaf":
                    raise
        return f"{key} {number} {os.getpid()}"


# --- in workers ---------------------------------------------------------------------------------


def _unfenced(exchanges: Exchanges, commit: Commit) -> Any:
    return _commit(exchanges, replace(commit, lease=None))


_commit = Exchanges._commit

_polite_claim = Script(CLAIM.source.replace(b"or (held[1] == 1 and want == 2)", b""))

BREAKS: Final[Mapping[str, tuple[str, Any]]] = MappingProxyType(
    {
        "commits are not fenced": ("async_cache.stores.exchanges.Exchanges._commit", _unfenced),
        "every message is obeyed": ("async_cache.refresh.settles", lambda *args: False),
        "no queued lease is taken over": ("async_cache.stores.exchanges.CLAIM", _polite_claim),
        "a lease is long": ("tests.faults.worker_jobs.Told.lease", 30.0),
    }
)

_HOUR: Final = 3600.0
SKEWS: Final[Mapping[str, Callable[[], float]]] = MappingProxyType(
    {
        "an hour ahead": lambda: time.time() + _HOUR,
        "an hour behind": lambda: time.time() - _HOUR,
        # Back and forth every second: half of all jumps are backwards.
        "jumping": lambda: time.time() + (_HOUR if int(time.monotonic()) % 2 else -_HOUR),
    }
)
"""Wall clocks that are wrong."""

broken = ""
"""What is broken in the workers that are started now; `in_workers` sets it."""


def in_workers(what: str) -> Break:
    """Return a break of the workers that are started while it lasts."""
    assert what in BREAKS
    return Break(what, f"{__name__}.broken", what)


def _tell(job: str, key: str, reason: str, **_: object) -> None:
    with board() as client:
        client.rpush(REFUSED, f"{key} {reason}")


def _begin() -> None:
    """Do what the environment of a worker asks for."""
    signals.refresh_refused.connect(_tell)
    if given := os.environ.get("FAULTS_BROKEN"):
        mock.patch(*BREAKS[given]).start()
    if skew := os.environ.get("FAULTS_CLOCK"):
        clock.now = SKEWS[skew]


if os.environ.get("FAULTS_WORKER"):
    _begin()
