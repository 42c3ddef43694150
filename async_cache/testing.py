"""For the tests of projects that use the package: no worker, a clock that stands, assertions.

::

    from async_cache.testing import assert_refreshes, freeze, refresh_immediately

    @refresh_immediately()
    def test_rates_are_refreshed_after_an_hour():
        with freeze() as clock:
            rates = Rates().get("EUR")
            clock.advance(hours=1)
            with assert_refreshes(Rates, ["EUR"]):
                assert Rates().get("EUR") == rates      # stale, and refreshed behind it
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from django.conf import settings
from django.test import override_settings

from async_cache import clock, guards, signals
from async_cache.keys import Call

if TYPE_CHECKING:
    from django.dispatch import Signal

    from async_cache.jobs.base import AsyncCacheJob

__all__ = [
    "Clock",
    "Refreshes",
    "assert_refreshes",
    "capture_refreshes",
    "freeze",
    "refresh_immediately",
]


def refresh_immediately() -> override_settings:
    """Refresh in the reader's thread, before ``get`` returns; for a test, a class or a block.

    ``get`` still answers with the stale value; the next read finds the fresh one. Nothing is
    published, no worker is needed. A job that chooses its own ``dispatcher`` on the class keeps it.
    """
    chosen: dict[str, Any] = dict(getattr(settings, "ASYNC_CACHE", {}))
    chosen["DISPATCHER"] = "immediate"
    chosen["JOBS"] = {
        name: {option: value for option, value in options.items() if option != "dispatcher"}
        for name, options in chosen.get("JOBS", {}).items()
    }
    return override_settings(ASYNC_CACHE=chosen)


class Clock:
    """The clock that `freeze` puts in place: it stands until it is moved.

    Entries age by it. What a cache backend expires by itself still goes by the real clock.
    """

    def __init__(self, start: float) -> None:
        self._now = start
        self._ahead = 0.0
        self._monotonic = clock.monotonic

    def now(self) -> float:
        """Return the wall clock in seconds since the epoch."""
        return self._now

    def monotonic(self) -> float:
        """Return the monotonic clock: the real one and what was advanced, so that waits end."""
        return self._monotonic() + self._ahead

    def advance(self, seconds: float | timedelta = 0, /, **parts: float) -> None:
        """Move forward.

        Args:
            seconds: A number of seconds or a timedelta.
            **parts: Or what a timedelta takes: ``advance(hours=1)``.
        """
        step = seconds.total_seconds() if isinstance(seconds, timedelta) else float(seconds)
        step += timedelta(**parts).total_seconds()
        if step < 0:
            raise ValueError("A clock is advanced by zero or more; move_to() also goes back.")
        self._now += step
        self._ahead += step

    def move_to(self, moment: float | datetime) -> None:
        """Set the wall clock, forward or back, as an adjusted clock jumps; waits do not notice."""
        self._now = moment.timestamp() if isinstance(moment, datetime) else float(moment)


@contextmanager
def freeze(moment: float | datetime | None = None) -> Iterator[Clock]:
    """Hold the package's clock still.

    Args:
        moment: Where it stands; by default now.

    Yields:
        The clock, to be advanced.
    """
    start = moment.timestamp() if isinstance(moment, datetime) else moment
    frozen = Clock(clock.now() if start is None else start)
    with (
        patch.object(clock, "now", frozen.now),
        patch.object(clock, "monotonic", frozen.monotonic),
    ):
        try:
            yield frozen
        finally:
            # Set by the advanced clock, they would outlast it.
            guards.forget()


@dataclass
class Refreshes:
    """What `capture_refreshes` has seen: pairs of a job's name and a call's digest.

    Attributes:
        dispatched: Handed to a worker.
        committed: Fetched and stored.
        failed: Fetched in vain.
        refused: Fetched, but not stored: overtaken by a delete or set, or by another refresh.
        coalesced: Not started because one was in flight.
    """

    dispatched: list[tuple[str, str]] = field(default_factory=list)
    committed: list[tuple[str, str]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    coalesced: list[tuple[str, str]] = field(default_factory=list)


@contextmanager
def capture_refreshes() -> Iterator[Refreshes]:
    """Collect what the block's refreshes in this process came to.

    Yields:
        The collection; it goes on filling until the block ends.
    """
    seen = Refreshes()
    pairs: list[tuple[Signal, Callable[..., None]]] = []
    for name in ("dispatched", "committed", "failed", "refused", "coalesced"):
        signal: Signal = getattr(signals, f"refresh_{name}")
        kept: list[tuple[str, str]] = getattr(seen, name)

        def note(
            sender: object,
            job: str,
            key: str,
            kept: list[tuple[str, str]] = kept,
            **payload: object,
        ) -> None:
            kept.append((job, key))

        signal.connect(note, weak=False)
        pairs.append((signal, note))
    try:
        yield seen
    finally:
        for signal, note in pairs:
            signal.disconnect(note)


@contextmanager
def assert_refreshes(
    job: AsyncCacheJob[Any] | type[AsyncCacheJob[Any]],
    calls: Iterable[Any],
    *,
    on: str = "committed",
) -> Iterator[Refreshes]:
    """Assert that the block refreshed just these calls of a job, each once.

    Args:
        job: The job, or its class when its constructor takes no arguments.
        calls: ``call(...)``, tuples, dicts of keywords; anything else is the only argument.
        on: ``"committed"``: fetched and stored in this process. ``"dispatched"``: handed to a
            worker. ``"failed"``, ``"refused"`` and ``"coalesced"`` as in `Refreshes`.

    Raises:
        AssertionError: A call is missing, or there is another.
    """
    instance: Any = job() if isinstance(job, type) else job
    wanted = {_digest(instance, one): one for one in calls}
    with capture_refreshes() as seen:
        yield seen
    name = instance.job_name
    found = [key for found_name, key in getattr(seen, on) if found_name == name]
    missing = [one for key, one in wanted.items() if key not in found]
    others = [key for key in found if key not in wanted]
    repeated = sorted({key for key in found if found.count(key) > 1})
    problems = []
    if missing:
        problems.append(f"not {on}: {missing!r}")
    if others:
        problems.append(f"{on} besides: {[_shown(instance, key) for key in others]!r}")
    if repeated:
        problems.append(f"{on} more than once: {[_shown(instance, key) for key in repeated]!r}")
    if problems:
        raise AssertionError(f"{name}: {'; '.join(problems)}")


def _digest(instance: Any, one: Any) -> str:
    if not isinstance(one, Call | tuple | Mapping) and not hasattr(instance, "get_queryset"):
        one = (one,)
    args, kwargs = instance._call(one)
    digest: str = instance._runtime.address(args, kwargs).digest
    return digest


def _shown(instance: Any, digest: str) -> object:
    """Return the arguments behind a digest, where this process knows them."""
    address = instance._runtime.known(digest)
    return digest if address is None else (*address.call.args, address.call.kwargs)
