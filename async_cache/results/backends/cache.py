"""The result backend over any cache of Django: ``result_backend = "async-cache"``.

A chord here has no lock. Why its body is called, and once however its parts meet:

1. *Somebody asks to call.* Each part is a member of the parts' group before it counts them, and its
   second delivery is the same member. So whichever member is written last counts all of them.
2. *One of them may.* ``add`` decides, atomically, who is the caller. Other parts leave. The same
   part, delivered twice, waits until the caller's mark is gone: then the caller was killed, since
   it renews the mark for as long as it lives.
3. *Nobody comes later.* The caller writes DONE over its mark, with nothing in between, and only
   then deletes the header and the parts. Who read the header before meets DONE, also where late
   parts fill a new group; who reads it after finds none.

Two calls are left, both under one task id: the caller was killed after the body was published and
before DONE; or the cache dropped the mark, or the caller stood still for the whole of a lease. None
is left by a caller that is killed and whose message never comes again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any, Final

from celery.backends.base import KeyValueStoreBackend
from django.core.cache import BaseCache, caches
from kombu.serialization import dumps
from kombu.utils.encoding import bytes_to_str

from async_cache import clock, threads
from async_cache.results.aliases import choose_alias
from async_cache.results.backends.chords import ChordsMixin, call_body
from async_cache.results.layers import Layer, get_cache_layer
from async_cache.results.pickles import PICKLE, seal
from async_cache.results.records import NO_RECORD, Record
from async_cache.signals import error_name

__all__ = ["CacheBackend"]

logger = logging.getLogger("async_cache.results")

CHORD_LEASE: Final = 10
"""Seconds after which a caller of a chord's body that is not heard of was killed."""
CHORD_LOOK: Final = 0.2
"""Seconds between the looks of the same part, delivered again meanwhile."""
DONE: Final = "-done"


class CacheBackend(ChordsMixin, KeyValueStoreBackend):
    """A result backend of Celery over an alias of ``CACHES``.

    The alias is, in this order: that of the URL (``async-cache://alias``), ``CELERY_CACHE_BACKEND``
    where that is no URL, the result store's. Results are the records of the result store: `get` and
    `set` reach what else Celery keeps.
    """

    kind = "cache"
    supports_autoexpire = True
    supports_native_join = True
    # Chords count without `incr`, which is not atomic on every cache.
    implements_incr = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _ = self.alias  # refused here, not at the first use

    @property
    def alias(self) -> str:
        """The alias of ``CACHES``."""
        return choose_alias(self.url, self.app.conf.get("cache_backend"))  # type: ignore[attr-defined]

    @property
    def cache_backend(self) -> BaseCache:
        """The cache itself."""
        return caches[self.alias]

    @property
    def layer(self) -> Layer:
        """Where the records are."""
        return get_cache_layer(self.alias)

    @property
    def listened_layer(self) -> Layer:
        """The same: its listener tells who waits."""
        return self.layer

    # What Celery keeps besides records: groups.

    def get(self, key: str | bytes) -> Any:
        """Return what is stored under a key, None without."""
        return self.cache_backend.get(bytes_to_str(key))

    def set(self, key: str | bytes, value: Any) -> None:
        """Store something under a key for as long as results live."""
        self.cache_backend.set(bytes_to_str(key), value, self._seconds())

    def delete(self, key: str | bytes) -> None:
        """Delete a key."""
        self.cache_backend.delete(bytes_to_str(key))

    def mget(self, keys: Any) -> list[Any]:
        """Return what is stored under each key."""
        names = [bytes_to_str(key) for key in keys]
        found = self.cache_backend.get_many(names)
        return [found.get(name) for name in names]

    def encode(self, data: Any) -> Any:
        """Return a serialized value; pickle is sealed."""
        payload: Any
        content_type, _, payload = dumps(data, serializer=self.serializer)
        return seal(payload) if content_type in PICKLE else payload

    def decode(self, data: Any) -> Any:
        """Return the value of what `encode` returned.

        Raises:
            RecordRejected: It was pickled elsewhere.
        """
        if data is None:
            return None
        return self._decode_bytes(data, self.content_type, self.content_encoding)

    def _seconds(self) -> float | None:
        return float(self.expires) if self.expires else None

    # Tasks.

    def save(self, record: Record, request: Any = None, using: str | None = None) -> bool:
        """Save a record."""
        return self.layer.save(record, self._seconds())

    def load(self, task_id: str) -> dict[str, Any] | None:
        """Return the meta of a task; None when it has no record."""
        record = self.layer.get(task_id)
        return None if record is NO_RECORD else self.meta_of(record)

    def load_ready(self, task_ids: Collection[str]) -> dict[str, dict[str, Any]]:
        """Return the meta of those tasks that have ended, by id."""
        found = self.layer.get_many(list(task_ids)) if task_ids else []
        return {r.id: self.meta_of(r) for r in found if r is not NO_RECORD and r.ready}

    def _forget(self, task_id: str) -> None:
        self.layer.forget(task_id)

    # Chords. The outcomes of the parts are members of a group, which the layer counts exactly. A
    # part's record is saved after its outcome is a member and, where it was the last, the body is
    # called: whichever part joins last sees all the others.

    def start_chord(self, group_id: str, size: int, parts: list[Any]) -> None:
        """Store what a chord's header consists of, before it is sent."""
        self.set(self._chord(group_id), self.encode([size, parts]))

    def end_part(self, record: Record, request: Any) -> None:
        """Note a part's outcome and save its record; the last one calls the body in between."""
        stored = self.decode(self.get(self._chord(request.group)))
        # None: the body has been called, or it is older than results live.
        if stored is not None:
            size, parts = stored
            group = self._chord(request.group, "parts")
            member = record.replace(id=f"{group}:{record.id}", name="", group=group)
            self.layer.save(member, self._seconds())
            if self.layer.has_ended(group, size) and self._may_call(request.group, record.id):
                self._call(group, parts, request)
        self.save(record, request)

    def _may_call(self, group_id: str, task_id: str) -> bool:
        """Return whether the caller is to call the body.

        Who was killed meanwhile has not ended: its message comes again, and waits for its lease.
        """
        name = self._chord(group_id, "caller")
        end = clock.monotonic() + 2 * CHORD_LEASE
        while not self.cache_backend.add(name, task_id, CHORD_LEASE):
            holder = self.cache_backend.get(name, task_id)
            if holder != task_id or clock.monotonic() >= end:
                return False
            # The same part, delivered twice: the other one may be alive.
            self._sleep(CHORD_LOOK)  # type: ignore[attr-defined]
        return True

    def _call(self, group: str, parts: Any, request: Any) -> None:
        def load() -> dict[str, dict[str, Any]]:
            members = {m.id.removeprefix(f"{group}:"): m for m in self.layer.group(group)}
            return {name: self.meta_of(member) for name, member in members.items()}

        with self._staying(request):
            call_body(self, parts, load, request)
        # This mark stays: a part may have seen the header before.
        self.set(self._chord(request.group, "caller"), DONE)
        self.delete(self._chord(request.group))
        self.layer.delete_group(group, tasks=True)

    @contextmanager
    def _staying(self, request: Any) -> Iterator[None]:
        """Stay the caller for as long as the block takes: a broker may be slow."""
        name, over = self._chord(request.group, "caller"), threading.Event()

        def renew() -> None:
            try:
                while not over.wait(CHORD_LEASE / 3):
                    if self.cache_backend.get(name) != request.id:
                        return
                    self.cache_backend.touch(name, CHORD_LEASE)
            except Exception as error:  # noqa: BLE001 - whatever a cache raises
                logger.warning("The chord %s is not renewed: %s", request.group, error_name(error))
            finally:
                threads.close_connections()

        thread = threads.start("chord", partial(copy_context().run, renew))
        try:
            yield
        finally:
            over.set()
            if thread is not None:
                thread.join(CHORD_LEASE)

    def _chord(self, group_id: str, part: str = "header") -> str:
        return f"{bytes_to_str(self.chord_keyprefix)}{group_id}:{part}"
