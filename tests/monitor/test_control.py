"""What is told to workers, where the broker is lost at the worst moment."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from celery import Celery

from async_cache import control
from async_cache.control import NotSent, connected
from tests.servers import RedisServer


@pytest.fixture(autouse=True)
def _app(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    app = Celery("lost", broker=redis_server.url, set_as_current=False)
    monkeypatch.setattr(control, "current_app", app)


def tell(meanwhile: Callable[[], object]) -> None:
    with connected() as connection:
        meanwhile()
        control.control().revoke(["x"], connection=connection)


def test_a_broker_that_goes_away_after_it_was_reached(redis_server: RedisServer) -> None:
    with pytest.raises(NotSent):
        tell(redis_server.stop)


@pytest.mark.parametrize("before", [True, False])
def test_a_broker_that_falls_silent(redis_server: RedisServer, before: bool) -> None:
    began = time.monotonic()
    if before:
        redis_server.pause()
    try:
        with pytest.raises(NotSent):
            tell(redis_server.pause)
    finally:
        redis_server.resume()
    assert time.monotonic() - began < 20
