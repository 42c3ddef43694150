"""Sending calls when the broker is away: bounded, told, and not counted."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from async_cache import results
from async_cache.breaker import Breaker
from async_cache.exceptions import DispatchFailed
from async_cache.results import async_task, tasks
from tests.servers import RedisServer
from tests.workers import Broker, connected

pytestmark = pytest.mark.django_db(transaction=True)

BOUND = 3.0
"""Seconds in which a call has ended: a few times ``PUBLISH_TIMEOUT``."""


@pytest.fixture(autouse=True)
def _broker_unknown(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tasks, "_breaker", Breaker())
    yield
    tasks._broker.close()


@pytest.fixture(params=["refused", "silent"])
def away(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the URL of a broker that refuses connections, or never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if request.param == "refused":
            server.close()
        yield f"redis://127.0.0.1:{port}/0"


@pytest.mark.shipped_timeouts
@pytest.mark.parametrize("cached", [False, True])
def test_a_broker_that_is_away_is_told_in_time_and_nothing_is_counted(
    away: str, cached: bool
) -> None:
    with connected(Broker(away)):
        begun = time.monotonic()
        with pytest.raises(DispatchFailed, match=r"broker.*See that the server") as caught:
            async_task("math.modf", 1, group="lost", cached=cached)
        assert time.monotonic() - begun < BOUND
        assert caught.value.__cause__ is not None
        begun = time.monotonic()
        for _ in range(20):
            with pytest.raises(DispatchFailed, match="just failed"):
                async_task("math.modf", 1, group="lost", cached=cached)
        assert time.monotonic() - begun < BOUND, "what has just failed is left alone"
    assert results.count_group("lost", cached=cached) == 0
    assert results.result_group("lost", cached=cached) == []
    assert results.delete_group("lost", cached=cached) == 0


def sent(server: RedisServer) -> int:
    with redis.Redis.from_url(server.url) as client:
        found: Any = client.llen("celery")
        return int(found)


def test_a_broker_that_comes_back_takes_calls_again(redis_server: RedisServer) -> None:
    with connected(Broker(redis_server.url)):
        async_task("math.modf", 1)
        redis_server.kill()
        with pytest.raises(DispatchFailed):
            async_task("math.modf", 1)
        redis_server.start()
        assert sent(redis_server) == 0
        end = time.monotonic() + 10
        while True:
            try:
                async_task("math.modf", 1)
            except DispatchFailed:
                assert time.monotonic() < end
                threading.Event().wait(0.05)
            else:
                break
        assert sent(redis_server) == 1


def test_a_connection_lost_meanwhile_is_made_anew(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*args: Any, **kwargs: Any) -> None:
        raise ConnectionResetError

    with connected(Broker(redis_server.url)):
        async_task("math.modf", 1)
        redis_server.kill()
        redis_server.start()
        async_task("math.modf", 1)
        assert sent(redis_server) == 1
        # As AMQP finds out: by writing.
        assert tasks._broker._link is not None
        monkeypatch.setattr(tasks._broker._link.producer, "publish", closed)
        async_task("math.modf", 1)
        assert sent(redis_server) == 2


def test_a_broker_that_refuses_one_message_is_no_outage(redis_server: RedisServer) -> None:
    with (
        connected(Broker(redis_server.url)),
        redis.Redis.from_url(redis_server.url) as client,
    ):
        client.set("full", "full")
        client.config_set("maxmemory", "1")
        with pytest.raises(DispatchFailed, match=r"refused the call of math\.modf"):
            async_task("math.modf", 1)
        client.config_set("maxmemory", "0")
        async_task("math.modf", 1)
    assert sent(redis_server) == 1


def test_threads_that_send_at_once_share_one_connection(redis_server: RedisServer) -> None:
    errors: list[BaseException] = []

    def send() -> None:
        try:
            for _ in range(20):
                async_task("math.modf", 1, cached=True)
        except BaseException as error:  # noqa: BLE001 - asserted below
            errors.append(error)

    with connected(Broker(redis_server.url)):
        async_task("math.modf", 1)
        threads = [threading.Thread(target=send) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors
    assert sent(redis_server) == 161
