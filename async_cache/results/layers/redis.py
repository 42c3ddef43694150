# ruff: noqa: D102  (the contract, in base.py, documents the operations)
"""Records and groups on the Redis server of a cache alias: one script a save."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from async_cache.exceptions import StoreUnavailable
from async_cache.results.codec import record_opener
from async_cache.results.layers.base import Changed, Counts, Layer
from async_cache.results.layers.names import Names
from async_cache.results.layers.opening import opened
from async_cache.results.layers.redis_wire import RedisWire
from async_cache.results.layers.scripts import (
    DELETE,
    FORGET,
    GET,
    HEAD,
    PURGE,
    RESERVE,
    SAVE,
    SCAN,
)
from async_cache.results.records import (
    NO_RECORD,
    NoRecord,
    Record,
    in_call_order,
    merge,
)
from async_cache.results.sealed import dump_record
from async_cache.results.waiting.topics import NAME, TASK, Topic, Wire
from async_cache.stores.exchanges import Exchange
from async_cache.stores.redis import RedisStore
from async_cache.stores.registry import get_store
from async_cache.stores.resp import pack
from async_cache.stores.scripts import Script

__all__ = ["RedisLayer"]

# Members per exchange: a chunk takes the server about a millisecond. The first one is small, and
# those after it are as long as what was read lets expect: an exchange has a time limit.
FIRST_CHUNK: Final = 100
CHUNK: Final = 1_000
CHUNK_BYTES: Final = 512 * 1024
# Each turn lost means that another's save of the same task was accepted meanwhile.
MAX_TURNS: Final = 50
_LONGEST_MS: Final = 10 * 366 * 86_400_000


def _ms(seconds: float) -> bytes:
    return b"%d" % max(1, round(min(seconds * 1000, _LONGEST_MS)))


def _said(key: bytes, tail: str) -> list[bytes]:
    """Return the id for a script, where a project's own key function hides it in the key."""
    packed = tail.encode()
    return [] if key.endswith(b":" + packed) else [packed]


class RedisLayer(Layer):
    """A layer over a Redis or Valkey server; a member costs the same whatever the group's size.

    Args:
        alias: Name in ``CACHES``; its store is a `RedisStore`.
        prefix: First part of every key.
        expires: Seconds that a record lives by default.
    """

    def __init__(self, alias: str, prefix: str, expires: float) -> None:
        self.alias = alias
        self.name = f"the cache {alias!r}"
        self._names = Names(prefix)
        self._expires = expires

    @property
    def tells(self) -> bool:
        return True

    def save(self, record: Record, expires: float | None = None) -> bool:
        life = _ms(self._expires if expires is None else expires)
        opener = record_opener()
        whole, head = record, b""
        for _ in range(MAX_TURNS):
            sealed = dump_record(whole, opener)
            answer = self._run(SAVE, [self._saving(whole, sealed, life, head)])[0]
            if type(answer) is int:
                return bool(answer)
            raw, unlabelled = answer
            old = opened(raw, opener, record.id)
            if unlabelled and old is not NO_RECORD:
                old = old.replace(group="", sequence=None)
            whole, head = merge(old, record), raw[:HEAD]
        raise StoreUnavailable(
            f"{self.name} could not save {record.id}: others keep saving the same task."
        )

    def _saving(self, record: Record, sealed: bytes, life: bytes, head: bytes) -> list[bytes]:
        names, tail = self._names, self._names.tail(record.id)
        keys = [names.record(tail), names.group(record.group) if record.group else ""]
        if not record.group:
            keys[1] = keys[0]
        if record.name:
            keys.append(names.name(record.name))
        packed = list(map(self._store.exchanges.key, keys))
        said = _said(packed[0], tail)
        return [
            b"%d" % len(keys),
            *packed,
            life,
            sealed,
            *([head, *said] if head or said else ()),
        ]

    def get_many(self, task_ids: Sequence[str]) -> list[Record | NoRecord]:
        tails = [self._names.tail(task_id) for task_id in task_ids]
        opener = record_opener()
        return [
            self._opened(answer, task_id, opener)
            for task_id, answer in zip(task_ids, self._read(tails), strict=True)
        ]

    def _read(self, tails: Sequence[str]) -> list[Any]:
        return self._run(GET, [self._call(tail) for tail in tails])

    def _call(self, tail: str) -> list[bytes]:
        key = self._key(self._names.record(tail))
        return [b"1", key, *_said(key, tail)]

    @staticmethod
    def _opened(answer: Any, task_id: str | None, opener: Any) -> Record | NoRecord:
        raw, unlabelled = answer
        found = NO_RECORD if raw is None else opened(raw, opener, task_id)
        if unlabelled and found is not NO_RECORD:
            return found.replace(group="", sequence=None)
        return found

    def find(self, name_or_id: str) -> Record | NoRecord:
        found = self.get(name_or_id)
        if found is not NO_RECORD:
            return found
        command = pack(b"GET", self._key(self._names.name(name_or_id)))
        [tail] = self._store.drive(self._store.exchanges.send([command]))
        if tail is None:
            return NO_RECORD
        [answer] = self._read([tail.decode()])
        found = self._opened(answer, None, record_opener())
        # What leads from names to ids carries no seal.
        return found if found is not NO_RECORD and found.name == name_or_id else NO_RECORD

    def group(self, group_id: str) -> list[Record]:
        key, opener = self._key(self._names.group(group_id)), record_opener()
        found: dict[str, Record] = {}
        members, cursor, chunk = b"", b"0", FIRST_CHUNK
        while True:
            [answer] = self._run(SCAN, [[b"1", key, members, cursor, b"%d" % chunk]])
            if answer is None:
                break
            members, cursor, *page = answer
            for raw in page:
                record = opened(raw, opener)
                if record is not NO_RECORD and record.group == group_id:
                    found[record.id] = record
            if cursor == b"0":
                break
            if page:
                fitting = CHUNK_BYTES * len(page) // sum(map(len, page))
                chunk = max(1, min(CHUNK, fitting))
        return in_call_order(found.values())

    def count(self, group_id: str) -> Counts:
        return self._counts([group_id])[0]

    def _counts(self, groups: Sequence[str]) -> list[Counts]:
        store, names = self._store, self._names
        commands = [pack(b"HMGET", self._key(names.group(g)), b"s", b"f") for g in groups]
        replies = store.drive(store.exchanges.send(commands))
        return [Counts(int(s or 0), int(f or 0)) for s, f in replies]

    def changed(
        self, task_ids: Sequence[str], groups: Sequence[str], names: Sequence[str] = ()
    ) -> Changed:
        ready = super().changed(task_ids, ()).records
        counts = dict(zip(groups, self._counts(groups), strict=True))
        return Changed(ready, counts, self._ready_names(names))

    def _ready_names(self, names: Sequence[str]) -> frozenset[str]:
        if not names:
            return frozenset()
        store, opener = self._store, record_opener()
        commands = [pack(b"GET", self._key(self._names.name(name))) for name in names]
        replies = store.drive(store.exchanges.send(commands))
        tails = {name: t.decode() for name, t in zip(names, replies, strict=True) if t is not None}
        found = {
            name: self._opened(answer, None, opener)
            for name, answer in zip(tails, self._read(list(tails.values())), strict=True)
        }
        return frozenset(
            name for name, r in found.items() if r is not NO_RECORD and r.ready and r.name == name
        )

    def reserve(self, group_id: str, n: int = 1) -> int:
        key = self._key(self._names.group(group_id))
        [last] = self._run(RESERVE, [[b"1", key, b"%d" % n, _ms(self._expires)]])
        return int(last) - n + 1

    def delete_group(self, group_id: str, tasks: bool = False) -> int:
        [(members, count)] = self._run(DELETE, [[b"1", self._key(self._names.group(group_id))]])
        if tasks and members:
            before = self._key(self._names.records)
            cursor = b"0"
            while True:
                [cursor] = self._run(PURGE, [[b"1", members, before, cursor, b"%d" % CHUNK]])
                if cursor == b"0":
                    break
        return int(count)

    def forget(self, task_id: str) -> bool:
        return bool(self._run(FORGET, [self._call(self._names.tail(task_id))])[0])

    def open_wire(self) -> Wire | None:
        return RedisWire.open(self._store, self.channel)

    def channel(self, topic: Topic) -> bytes:
        """Return the Pub/Sub channel of a topic; the message of a group is its counts."""
        names = self._names
        if topic.kind == TASK:
            return self._key(names.record(names.tail(topic.name)))
        if topic.kind == NAME:
            return self._key(names.name(topic.name))
        return self._key(names.group(topic.name))

    # The store may be made anew when settings change.

    @property
    def _store(self) -> RedisStore:
        store = get_store(self.alias)
        assert isinstance(store, RedisStore)
        return store

    def _key(self, name: str) -> bytes:
        return self._store.exchanges.key(name)

    def _run(self, script: Script, calls: Sequence[list[bytes]]) -> list[Any]:
        store = self._store
        steps: Exchange[list[Any]] = store.exchanges.run(script, calls)
        return store.drive(steps)
