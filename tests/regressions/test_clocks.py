"""Processes whose clocks differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from async_cache import AsyncCacheJob, publisher
from async_cache.dispatchers import get_dispatcher
from async_cache.messages import seal_message
from async_cache.secret_keys import get_ring
from async_cache.testing import freeze
from async_cache.worker import run_sealed
from tests.dispatchers.support import eventually


class Kept(AsyncCacheJob[str]):
    ttl = 600
    jitter = 0
    fetched = 0

    def fetch(self, key: str) -> str:
        type(self).fetched += 1
        return f"{key} {self.fetched}"


@pytest.fixture
def shelf(settings: Any) -> Iterator[Any]:
    """Messages that a worker has yet to take; published by the thread, as to a broker."""
    settings.ASYNC_CACHE = {"DISPATCHER": "tests.jobs.support.Shelf"}
    found: Any = get_dispatcher("tests.jobs.support.Shelf")
    found.messages.clear()
    Kept.fetched = 0
    with mock.patch.object(type(found), "inline", property(lambda shelf: False)):
        yield found
        publisher.drain(1.0)
    found.messages.clear()


@pytest.mark.parametrize("hours", [-1, 1])
def test_p5_a_message_from_a_clock_that_is_an_hour_off_is_obeyed(shelf: Any, hours: int) -> None:
    """A reader an hour behind sent messages that had expired when they came."""
    Kept().get("key")
    with freeze() as here:
        right = here.now()
        here.move_to(right + 3600 * hours)
        Kept().refresh_later("key")
        sealed = seal_message(shelf.messages[0].message, get_ring())
        here.move_to(right + 1)
        assert run_sealed(sealed) == {"fetched": 1}


@pytest.mark.parametrize("hours", [-1, 1])
def test_p3_a_process_whose_clock_is_an_hour_off_asks_once_in_a_lease(
    shelf: Any, hours: int
) -> None:
    """Whatever had just been refreshed seemed old, or from the future, and was asked for again."""
    job = Kept()
    with freeze() as here:
        right = here.now()

        def read() -> str:
            here.move_to(right + 3600 * hours)
            value = job.get("key")
            here.move_to(right)
            return value

        job.get("key")
        assert read() == "key 1"
        eventually(lambda: shelf.messages, 10)
        assert shelf.run() == {"fetched": 1}
        for _ in range(20):
            assert read() == "key 2"
        assert not len(publisher._outbox)
        assert not shelf.messages
        here.advance(job._runtime.policy.lease)
        assert read() == "key 2"
        eventually(lambda: shelf.messages, 10)
        assert shelf.run() == {"fetched": 1}
        job.invalidate("key")
        assert read() == "key 3"
        eventually(lambda: shelf.messages, 10)  # what was invalidated is asked for at once
