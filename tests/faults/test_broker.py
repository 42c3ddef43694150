"""Row "broker": whatever the broker does, a reader of a stale value does not notice.

`check_readers` reads stale keys while the broker is well and again while it is at fault, and
compares. `check_recovery` lets the broker come back. Both run on Redis and on RabbitMQ.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

import pytest

from async_cache import guards, signals
from async_cache.stores.registry import get_store
from tests.dispatchers.support import eventually, heard
from tests.faults.brokers import FaultyBroker
from tests.faults.jobs import AlwaysStale, fetched
from tests.faults.proxy import Mode
from tests.faults.scale import count, judge

Fault = Callable[[FaultyBroker], None]
TASK = b"async_cache.refresh"

FAULTS: dict[str, Fault] = {
    "refused": lambda broker: broker.proxy.set(Mode.REFUSE),
    "reset": lambda broker: broker.proxy.set(Mode.RESET),
    "blackholed": lambda broker: broker.proxy.set(Mode.BLACKHOLE),
    "syn dropped": lambda broker: broker.proxy.set(Mode.SYN_DROP),
    "50 ms away": lambda broker: broker.proxy.delay(0.025),
    "500 ms away": lambda broker: broker.proxy.delay(0.25),
    "cut mid-publish": lambda broker: broker.proxy.cut_request(10, TASK, times=float("inf")),
    "reply dropped": lambda broker: broker.proxy.drop_reply(TASK, times=float("inf")),
}


@pytest.fixture(autouse=True)
def _cache(settings: Any, redis_caches: str) -> None:
    settings.ASYNC_CACHE = {"CACHE": "redis", "DISPATCHER": "celery"}


@dataclass
class Readings:
    """How long reads took, in seconds, and what they raised."""

    seconds: list[float] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    @property
    def p99(self) -> float:
        return quantiles(self.seconds, n=100)[98]


def stale_keys(number: int, name: str) -> list[str]:
    """Store values that are stale at once; return their keys."""
    job = AlwaysStale()
    keys = [f"{name}{n}" for n in range(number)]
    for key in keys:
        job.set(f"old {key}", key)
    return keys


def read_all(keys: list[str], seconds: float) -> Readings:
    """Read each key twice, in any order, in so many seconds."""
    readings, job = Readings(), AlwaysStale()
    order = [*keys, *keys]
    random.Random(1).shuffle(order)
    begun = time.perf_counter()
    for number, key in enumerate(order):
        due = begun + seconds * number / len(order)
        time.sleep(max(0.0, due - time.perf_counter()))
        start = time.perf_counter()
        try:
            value = job.get(key)
        except Exception as error:  # noqa: BLE001 - counted
            readings.errors.append(error)
        else:
            assert value == f"old {key}"
        readings.seconds.append(time.perf_counter() - start)
    return readings


def leases(keys: list[str]) -> list[str]:
    """Return the keys whose lease is held."""
    runtime = AlwaysStale()._runtime
    names = [runtime.address((key,), {}).lease for key in keys]
    holders = get_store(runtime.alias).holders(names)
    return [key for key, holder in zip(keys, holders, strict=True) if holder is not None]


def check_readers(broker: FaultyBroker, name: str, fault: Fault) -> None:
    """Read 2 000 times with the broker well, and 2 000 times with the broker at fault."""
    number, seconds = count(150, 1000), count(1, 4)
    label = f"broker {broker.kind}/{name}"
    well = read_all(stale_keys(number, "well"), seconds)
    eventually(lambda: broker.waiting() >= 1)
    guards.forget()
    keys = stale_keys(number, "ill")
    with heard(signals.dispatch_failed) as failures:
        fault(broker)
        ill = read_all(keys, seconds)
        if "away" not in name:
            eventually(lambda: failures, 10)
            begun = time.monotonic()
            eventually(lambda: not leases(keys), 10)
            judge(label, "lease given back, s", time.monotonic() - begun, 1, generous=5)
    assert not well.errors + ill.errors
    assert not fetched, "a reader has fetched"
    added = max(0.0, ill.p99 - well.p99)
    judge(label, "added p99, ms", 1000 * added, 2, generous=100)
    judge(label, "longest read, ms", 1000 * max(ill.seconds), 50, generous=1000)


@pytest.mark.parametrize("name", FAULTS)
def test_readers_do_not_notice(broker: FaultyBroker, name: str) -> None:
    check_readers(broker, name, FAULTS[name])
