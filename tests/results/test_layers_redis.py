"""What the layer over Redis costs, keeps and tells."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import redis
from django.core.cache import caches

from async_cache.exceptions import StoreUnavailable
from async_cache.results.layers import Layer, get_cache_layer
from async_cache.results.layers.redis import RedisLayer
from async_cache.results.records import NO_RECORD, Record
from async_cache.results.waiting import GROUP, NAME, TASK, Topic
from tests.results.test_layers import failure, ids, stored, success, together


@pytest.fixture
def client(redis_layer: Layer, redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def calls(client: redis.Redis) -> int:
    """Return how many commands the server got from outside of scripts."""
    stats: Any = client.info("commandstats")
    inside = {
        "get",
        "set",
        "hget",
        "hset",
        "hmget",
        "hincrby",
        "pttl",
        "pexpire",
        "publish",
        "exists",
    }
    return sum(
        entry["calls"]
        for name, entry in stats.items()
        if name.removeprefix("cmdstat_") not in {*inside, "info", "config|resetstat"}
    )


def traffic(client: redis.Redis) -> int:
    stats: Any = client.info("stats")
    return int(stats["total_net_input_bytes"] + stats["total_net_output_bytes"])


def same_end(client: redis.Redis, keys: list[Any]) -> bool:
    """Whether keys have a timeout, and end at the same time."""
    pipeline = client.pipeline(transaction=True)
    for key in keys:
        pipeline.pttl(key)
    left = pipeline.execute()
    return bool(min(left) > 0 and max(left) - min(left) <= 2)


def test_a_save_is_one_command_whatever_the_size_of_the_group(
    redis_layer: Layer, client: redis.Redis
) -> None:
    redis_layer.save(success("first", group="g"))
    costs = []
    for size in (0, 500):
        for i in range(size):
            redis_layer.save(success(f"{size}-{i}", group="g", sequence=i))
        client.config_resetstat()
        before = traffic(client)
        own = traffic(client) - before
        before = traffic(client)
        redis_layer.save(success(f"next-{size:03}", group="g", sequence=600))
        costs.append(traffic(client) - before - own)
        assert calls(client) == 1
    assert abs(costs[0] - costs[1]) < 100, "only the digits of INFO may differ"


def test_a_member_costs_less_than_600_bytes_saved_and_read(
    redis_layer: Layer, client: redis.Redis
) -> None:
    n = 1_000
    records = [
        success(
            f"00000000-0000-4000-8000-{i:012}", (0.0, float(i)), name="math.modf", created=1.5,
            queued=1.5, started=1.5, worker="celery@worker-1", group="modf", sequence=i,
        )
        for i in range(n)
    ]  # fmt: skip
    redis_layer.save(records[0])
    before = traffic(client)
    for record in records:
        redis_layer.save(record)
    assert len(redis_layer.group("modf")) == n
    assert redis_layer.count("modf") == (n, 0)
    assert (traffic(client) - before) / n < 600


def test_every_key_has_a_timeout_and_a_group_has_one(
    redis_layer: Layer, client: redis.Redis
) -> None:
    redis_layer.reserve("reserved")
    redis_layer.reserve("g")
    redis_layer.save(success("a", group="g", name="n"), 5)
    redis_layer.save(success("b", group="g"), 100_000)
    redis_layer.save(success("c", group="g"), 1)
    redis_layer.save(success("d"), 50)
    redis_layer.save(Record("e", state="STARTED", group="h"))
    redis_layer.delete_group("h")
    assert not redis_layer.save(Record("a", state="STARTED", group="unknown"))
    keys: Any = client.keys()
    assert all(client.pttl(key) > 0 for key in keys), "a key without timeout"
    hashes = [key for key in keys if client.type(key) == b"hash" and b":-g:g" in key]
    assert len(hashes) == 2
    assert same_end(client, hashes)
    assert 99_000 < client.ttl(hashes[0]) <= 100_000


def test_a_member_lives_no_longer_than_its_group(redis_layer: Layer, client: redis.Redis) -> None:
    redis_layer.reserve("g")
    redis_layer.save(success("a", group="g"), 5)
    hashes = list(client.scan_iter("*:-g:g*"))
    assert len(hashes) == 2
    assert same_end(client, hashes)


def test_a_member_whose_own_key_ended_is_still_one_member(
    redis_layer: Layer, client: redis.Redis
) -> None:
    redis_layer.save(success("a", 1, group="g"))
    client.delete(caches["redis"].make_key("ac:-r:a"))
    assert not redis_layer.save(Record("a", state="STARTED", group="g"))
    assert redis_layer.save(success("a", 2, group="g"))
    assert redis_layer.count("g") == (1, 0)
    assert ids(redis_layer.group("g")) == ["a"]
    assert stored(redis_layer, "a").group == "g"


def test_a_large_group_is_read_in_chunks(redis_layer: Layer, client: redis.Redis) -> None:
    n = 2_500
    for i in range(n):
        redis_layer.save(success(f"t{i}", group="g", sequence=n - i))
    client.config_resetstat()
    assert [record.sequence for record in redis_layer.group("g")] == list(range(1, n + 1))
    stats: Any = client.info("commandstats")
    assert 4 <= stats["cmdstat_evalsha"]["calls"] <= 6
    assert redis_layer.delete_group("g", tasks=True) == n
    assert client.dbsize() == 0


def test_a_group_of_large_values_is_read_in_shorter_chunks(
    redis_layer: Layer, client: redis.Redis
) -> None:
    n, size = 300, 50_000
    for i in range(n):
        redis_layer.save(Record(f"t{i}", state="SUCCESS", value=b"x" * size, group="g"))
    client.config_resetstat()
    assert len(redis_layer.group("g")) == n
    stats: Any = client.info("commandstats")
    assert stats["cmdstat_evalsha"]["calls"] >= 10


def test_counts_hold_while_many_save_the_same_tasks(redis_layer: Layer) -> None:
    def work(seed: int) -> None:
        for i in range(40):
            redis_layer.save(Record(f"t{i}", state="STARTED", retries=seed, group="g"))
            redis_layer.save(failure(f"t{i}", retries=seed, group="g"))
            if i % 2:
                redis_layer.save(success(f"t{i}", group="g"))

    together([partial(work, seed) for seed in range(4)])
    members = redis_layer.group("g")
    assert redis_layer.count("g") == (20, 20)
    assert sum(record.successful for record in members) == 20


def test_a_listener_is_told_of_records_and_counts(redis_layer: Layer, client: redis.Redis) -> None:
    assert redis_layer.tells
    assert isinstance(redis_layer, RedisLayer)
    topics = Topic(TASK, "a"), Topic(GROUP, "g"), Topic(NAME, "n")
    record, group, name = (redis_layer.channel(topic).decode() for topic in topics)
    with client.pubsub(ignore_subscribe_messages=True) as listener:  # type: ignore[no-untyped-call]
        listener.subscribe(record, group, name)
        listener.get_message(timeout=5)
        listener.get_message(timeout=5)
        listener.get_message(timeout=5)
        redis_layer.save(Record("a", state="STARTED", group="g"))
        redis_layer.save(failure("b", group="g"))
        redis_layer.save(success("a", group="g", name="n"))
        told: list[tuple[str, str]] = []
        while len(told) < 4:
            message = listener.get_message(timeout=5)
            assert message is not None
            told.append((message["channel"].decode(), message["data"].decode()))
    assert told == [(group, "0:1"), (record, ""), (name, ""), (group, "1:1")]


def test_what_leads_nowhere_is_no_record(redis_layer: Layer, client: redis.Redis) -> None:
    redis_layer.save(success("a", 1, group="g", name="n"))
    redis_layer.save(success("b", 2, group="g"))
    make_key = caches["redis"].make_key
    # A record moved to another's key, into another group, or behind another name.
    pointer = client.get(make_key("ac:-r:a"))
    assert isinstance(pointer, bytes)
    client.set(make_key("ac:-r:x"), pointer, ex=60)
    members = next(key for key in client.scan_iter() if b":-g:g:" in key)
    sealed = client.hget(members, "a")
    client.hset(members, mapping={"x": sealed, "y": b"junk", "z": b""})  # type: ignore[dict-item]
    client.set(make_key("ac:-n:other"), "a", ex=60)
    redis_layer.save(success("theirs", 3, group="h"))
    other = next(key for key in client.scan_iter() if b":-g:h:" in key)
    client.hset(members, "theirs", client.hget(other, "theirs"))
    assert redis_layer.get("x") is NO_RECORD
    assert redis_layer.find("other") is NO_RECORD
    assert sorted(ids(redis_layer.group("g"))) == ["a", "b"]
    client.set(make_key("ac:-r:junk"), b"=\0\0\0", ex=60)
    assert redis_layer.get("junk") is NO_RECORD
    assert redis_layer.save(success("junk", 1))
    assert redis_layer.save(success("y", 1, group="g"))
    assert sorted(ids(redis_layer.group("g"))) == ["a", "b", "y"]


def test_a_project_may_make_its_own_keys(redis_caches: str, settings: Any) -> None:
    entry = {**settings.CACHES["redis"], "KEY_FUNCTION": "tests.results.test_layers_redis.odd_key"}
    settings.CACHES = {**settings.CACHES, "redis": entry}
    caches["redis"].clear()
    layer = get_cache_layer("redis")
    layer.save(success("a", 1, group="g", name="n"))
    layer.save(Record("a", state="STARTED"))
    assert layer.find("n") == stored(layer, "a")
    assert layer.count("g") == (1, 0)
    assert layer.delete_group("g", tasks=True) == 1
    assert layer.get("a") is NO_RECORD


def odd_key(key: str, prefix: str, version: int) -> str:
    return f"{key}:{prefix}:{version}:end"


def test_an_outage_is_told_and_bounded(redis_server: Any, settings: Any) -> None:
    entry = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": redis_server.url}
    settings.CACHES = {**settings.CACHES, "own": entry}
    layer = get_cache_layer("own")
    assert layer.save(success("a", 1, group="g"))
    redis_server.stop()
    for operation in (
        partial(layer.save, success("a", 1)),
        partial(layer.get, "a"),
        partial(layer.group, "g"),
        partial(layer.count, "g"),
    ):
        with pytest.raises(StoreUnavailable):
            operation()
