"""Row "broker": whatever the broker does, a reader of a stale value does not notice.

`check_readers` reads stale keys while the broker is well and again while it is at fault, and
compares. `check_recovery` lets the broker come back and watches the messages arrive. Both run with
each fault on Redis and on RabbitMQ.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

import pytest

from async_cache import guards, publisher, signals
from async_cache.breaker import Breaker
from async_cache.cold import direct
from async_cache.stores.registry import get_store
from tests.dispatchers.support import eventually, heard
from tests.faults.breaks import Break, caught
from tests.faults.brokers import FAULTS, FaultyBroker
from tests.faults.jobs import AlwaysStale, fetched
from tests.faults.scale import count, judge

STILL_TAKES = {"50 ms away", "pool exhausted"}
"""Faults with which messages go on arriving."""

IN_SMALL = {
    "redis": {"refused", "reset", "blackholed", "syn dropped", "500 ms away"},
    "rabbitmq": {"blackholed", "cut mid-publish", "clients refused"},
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


def leased(keys: list[str]) -> list[str]:
    """Return the keys whose lease is held."""
    runtime = AlwaysStale()._runtime
    names = [runtime.address((key,), {}).lease for key in keys]
    holders = get_store(runtime.alias).holders(names)
    return [key for key, holder in zip(keys, holders, strict=True) if holder is not None]


def begin_afresh(broker: FaultyBroker) -> None:
    """Forget what an earlier round has left."""
    publisher.drain(0.5)
    publisher._reset()
    guards.forget()
    broker.empty()


def check_readers(broker: FaultyBroker, name: str) -> None:
    """Read 2 000 times with the broker well, and 2 000 times with the broker at fault."""
    label = f"broker {broker.kind}/{name}"
    rounds: list[tuple[float, float]] = []
    # Other work of the machine only ever adds time: the best of a few rounds is ours.
    for number in range(count(1, 4)):
        rounds.append(_round(broker, name, f"{label}/{number}"))
        if rounds[-1][0] <= 0.002 and rounds[-1][1] <= 0.05:
            break
    added, longest = (min(figures) for figures in zip(*rounds, strict=True))
    judge(label, "added p99, ms", 1000 * added, 2, generous=100)
    judge(label, "longest read, ms", 1000 * longest, 50, generous=1000)


def _round(broker: FaultyBroker, name: str, label: str) -> tuple[float, float]:
    number = count(150, 1000)
    seconds = number / 650
    begin_afresh(broker)
    well = read_all(stale_keys(number, f"{label}/well"), seconds)
    assert not fetched, "a reader has fetched"
    eventually(lambda: broker.waiting() >= 1)
    begin_afresh(broker)
    keys = stale_keys(number, f"{label}/ill")
    with (
        heard(signals.dispatch_failed) as failures,
        heard(signals.refresh_dispatched) as successes,
    ):
        # Connected, so that the fault meets an open connection first and new ones later.
        AlwaysStale().refresh_later(keys[0])
        FAULTS[name](broker)
        ill = read_all(keys, seconds)
        assert not fetched, "a reader has fetched"
        try:
            if name in STILL_TAKES:
                eventually(lambda: len(successes) > 1, 10)
            else:
                eventually(lambda: failures, 10)
                begun = time.monotonic()
                eventually(lambda: leased(keys) in ([], [keys[0]]), 5)
                judge(label, "lease given back, s", time.monotonic() - begun, 1, generous=5)
        finally:
            broker.restore()
    assert not well.errors + ill.errors
    return max(0.0, ill.p99 - well.p99), max(ill.seconds)


def check_recovery(broker: FaultyBroker, name: str) -> None:
    """Let every key that was asked for while the broker was at fault reach it afterwards."""
    label = f"broker {broker.kind}/{name}"
    begin_afresh(broker)
    keys = stale_keys(count(20, 100), f"{label}/back")
    patience = count(6, 30)
    with heard(signals.dispatch_failed) as failures:
        FAULTS[name](broker)
        read_all(keys, 0.2)
        if name not in STILL_TAKES:
            eventually(lambda: failures, 10)
            before = len(failures)
            eventually(lambda: len(failures) > before, patience)  # a probe has failed as well
    with heard(signals.refresh_dispatched) as successes:
        broker.restore()
        if name not in STILL_TAKES:
            begun = time.monotonic()
            eventually(lambda: successes, patience)
            judge(label, "publishing resumed, s", time.monotonic() - begun, 2, generous=6)
        eventually(lambda: broker.waiting() >= len(keys), patience)
        eventually(lambda: leased(keys) == keys, 10)
    assert not fetched


def _cases(small: Mapping[str, set[str]]) -> list[Any]:
    return [
        pytest.param(kind, name, marks=[] if name in names else pytest.mark.faults)
        for kind, names in small.items()
        for name in FAULTS
    ]


@pytest.mark.parametrize(("broker", "name"), _cases(IN_SMALL), indirect=["broker"])
def test_readers_do_not_notice(broker: FaultyBroker, name: str) -> None:
    check_readers(broker, name)


@pytest.mark.parametrize(
    ("broker", "name"),
    _cases({"redis": {"blackholed"}, "rabbitmq": {"cut mid-publish"}}),
    indirect=["broker"],
)
def test_publishing_resumes(broker: FaultyBroker, name: str) -> None:
    check_recovery(broker, name)


@pytest.mark.faults
def test_a_broker_without_memory(broker: FaultyBroker) -> None:
    """It answers, and refuses: RabbitMQ blocks the connection, Redis says OOM."""
    keys = stale_keys(20, broker.kind)
    with (
        heard(signals.dispatch_failed) as failures,
        heard(signals.refresh_dispatched) as successes,
    ):
        broker.fill_memory()
        readings = read_all(keys, 0.5)
        eventually(lambda: failures, 10)
        eventually(lambda: not leased(keys), 10)
        assert not successes
        broker.restore()
        guards.forget()  # who was refused is asked for again by a later read
        readings.errors += read_all(keys, 0.5).errors
        eventually(lambda: len(successes) >= len(keys), 20)
    assert not readings.errors
    assert not fetched


# --- breaks -----------------------------------------------------------------------------------


class _Patient(Breaker):
    def failed(self, now: float) -> None:
        self.retry_at = now + 30


def _fetching_reader(runtime: Any, address: Any, entry_id: bytes, raws: Any) -> None:
    direct(runtime, address)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("broken", "check", "name"),
    [
        (
            Break(
                "readers publish themselves",
                "async_cache.outbox.Outbox._ensure_thread",
                lambda self: False,
            ),
            check_readers,
            "blackholed",
        ),
        (
            Break("leases are kept", "async_cache.press._release", lambda store, wishes: None),
            check_readers,
            "refused",
        ),
        (
            Break("readers fetch", "async_cache.reading.renew", _fetching_reader),
            check_readers,
            "refused",
        ),
        (
            Break("probes are rare", "async_cache.press.Breaker", _Patient),
            check_recovery,
            "refused",
        ),
        (
            Break("nothing is tried again", "async_cache.press._refused", lambda w, e: []),
            check_recovery,
            "reset",
        ),
        (
            Break(
                "sockets wait for ever",
                "async_cache.dispatchers.broker._bounds",
                lambda connection, seconds, hosts: {},
            ),
            check_recovery,
            "blackholed",
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, Break | str) else value.__name__,
)
@pytest.mark.parametrize("broker", ["redis"], indirect=True)
def test_the_checks_notice(
    broker: FaultyBroker, broken: Break, check: Callable[[FaultyBroker, str], None], name: str
) -> None:
    caught(broken, lambda: check(broker, name))
