"""The result backend over any cache of Django: ``result_backend = "async-cache"``."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from celery import states
from celery.backends.base import KeyValueStoreBackend
from django.core.cache import BaseCache, caches
from kombu.serialization import dumps
from kombu.utils.encoding import bytes_to_str

from async_cache import clock, conf
from async_cache.results.backends.chords import call_body
from async_cache.results.backends.contents import PICKLE, ContentsMixin, seal
from async_cache.results.backends.limits import warn_of_limits
from async_cache.results.conf import get_results_settings
from async_cache.results.layers import Layer, get_cache_layer
from async_cache.results.records import NO_RECORD

__all__ = ["CacheBackend"]

CHORD_LEASE: Final = 10
"""Seconds in which who takes the last slot of a chord has called its body."""
CHORD_LOOK: Final = 0.2
"""Seconds between the looks of a part that comes again meanwhile."""
DONE: Final = "-done"


class CacheBackend(ContentsMixin, KeyValueStoreBackend):
    """A result backend of Celery over an alias of ``CACHES``.

    The alias is, in this order: that of the URL (``async-cache://alias``), ``CELERY_CACHE_BACKEND``
    where it is an alias, the result store's. Results are the records of the result store: `get` and
    `set` reach what else Celery keeps.
    """

    supports_autoexpire = True
    supports_native_join = True
    # Chords count without `incr`, which is not atomic on every cache.
    implements_incr = False

    @property
    def alias(self) -> str:
        """The alias of ``CACHES``."""
        named = (self.url or "").partition("://")[2].strip("/")  # type: ignore[attr-defined]
        given = named or self.app.conf.get("cache_backend")
        if given and given in caches.settings:
            return str(given)
        return get_results_settings().cache or conf.get_settings().cache

    @property
    def cache_backend(self) -> BaseCache:
        """The cache itself."""
        return caches[self.alias]

    @property
    def layer(self) -> Layer:
        """Where the records are."""
        return get_cache_layer(self.alias)

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

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **kwargs: Any,
    ) -> Any:
        warn_of_limits(self, request)
        record = self.make_record(task_id, result, state, traceback, request)
        self.layer.save(record, self._seconds())
        return result

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        record = self.layer.get(task_id)
        if record is NO_RECORD:
            return {
                "task_id": task_id,
                "status": states.PENDING,
                "result": None,
                "traceback": None,
                "children": [],
                "date_done": None,
            }
        return self.meta_of(record)

    def task_result_exists(self, task_id: str) -> bool:
        """Tell whether there is a record of the task, in whichever state."""
        return self.layer.get(task_id) is not NO_RECORD

    def load_ready(self, task_ids: Collection[str]) -> dict[str, dict[str, Any]]:
        """Return the meta of those tasks that have ended, by id."""
        found = self.layer.get_many(list(task_ids)) if task_ids else []
        return {r.id: self.meta_of(r) for r in found if r is not NO_RECORD and r.ready}

    def _forget(self, task_id: str) -> None:
        self.layer.forget(task_id)

    # Chords. Each part takes the first free slot of its chord with `add`; who takes the last one
    # calls the body. A part delivered again finds its own slot, so it takes no other.

    def apply_chord(self, header_result_args: Any, body: Any, **kwargs: Any) -> None:
        """Store what a chord's header consists of, before it is sent."""
        self.ensure_chords_allowed()
        header = self.app.GroupResult(*header_result_args)
        parts = [result.as_tuple() for result in header]
        size = body.get("chord_size") or len(parts)
        self.set(self._chord(header.id), self.encode([size, parts]))

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:
        """Note that a part of a header has ended; the last one calls the body."""
        task_id, group_id = request.id, request.group
        if not task_id or not group_id:
            return
        app_backend = self.app.backend
        if not isinstance(app_backend, CacheBackend):
            # Bound to this task beside the app's backend, which made the chord and counts it.
            warn_of_limits(self, request)
            app_backend.on_chord_part_return(request, state, result, **kwargs)
            return
        stored = self.decode(self.get(self._chord(group_id)))
        if stored is None:
            # Done, or older than results live.
            return
        size, parts = stored
        record = self.layer.get(task_id)
        if record is NO_RECORD or not record.ready:
            # A part that ignores its result: the body wants it nevertheless.
            self.store_result(task_id, result, state, request=request)
        if not self._take_slot(group_id, task_id, size):
            return
        if not self._may_call(group_id, task_id):
            return
        call_body(self, group_id, parts, request)
        # This mark stays: another delivery may have counted the slots already.
        self.set(self._chord(group_id, "called"), DONE)
        self.cache_backend.delete_many(
            [self._chord(group_id), *(self._chord(group_id, number) for number in range(size))]
        )

    def _may_call(self, group_id: str, task_id: str) -> bool:
        """Return whether the caller is to call the body; wait while another does."""
        name = self._chord(group_id, "called")
        end = clock.monotonic() + 2 * CHORD_LEASE
        while not self.cache_backend.add(name, task_id, CHORD_LEASE):
            if self.cache_backend.get(name) == DONE or clock.monotonic() >= end:
                return False
            # Another calls the body. It may have been killed, and no part may come again.
            self._sleep(CHORD_LOOK)  # type: ignore[attr-defined]
        return True

    def _take_slot(self, group_id: str, task_id: str, size: int) -> bool:
        """Return whether all slots are taken."""
        names = [self._chord(group_id, number) for number in range(size)]
        taken = self.cache_backend.get_many(names)
        place = len(taken)
        if task_id not in taken.values():
            place = next((n for n, name in enumerate(names) if name not in taken), size)
            while place < size:
                added = self.cache_backend.add(names[place], task_id, self._seconds())
                place += 1
                if added:
                    break
                if self.cache_backend.get(names[place - 1]) == task_id:
                    break
        return place >= size

    def _chord(self, group_id: str, part: str | int = "header") -> str:
        return f"{bytes_to_str(self.chord_keyprefix)}{group_id}:{part}"
