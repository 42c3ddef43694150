"""Redis with the database behind it: ``result_backend = "async-cache-redis+redis://…"``.

Redis stays the backend of the whole app. The results of tasks with ``persist=True`` are written to
the database first, then to Redis; what Redis no longer has is read from the database.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import Any, Final

from celery import states
from celery.app.task import Context
from celery.backends import base as celery_base
from celery.backends.redis import RedisBackend
from celery.result import ResultBase
from kombu.serialization import dumps, loads

from async_cache.results.aliases import SCHEME, choose_server
from async_cache.results.backends.buffer import get_buffer
from async_cache.results.backends.contents import error_data, rebuild_error
from async_cache.results.backends.database import DatabaseBackend
from async_cache.results.conf import get_results_settings
from async_cache.results.pickles import PICKLE, seal, unseal
from async_cache.results.records import rank

__all__ = ["WriteThroughBackend"]

logger = logging.getLogger("async_cache.results")

_body: ContextVar[Any] = ContextVar("async_cache_chord_body", default=None)

# The rank of what is stored stands beside it, and lives as long.
SET_RANKED: Final = """
local held = redis.call('GET', KEYS[2])
if held and tonumber(held) > tonumber(ARGV[1]) and redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
if tonumber(ARGV[3]) > 0 then
  redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
  redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[3])
else
  redis.call('SET', KEYS[1], ARGV[2])
  redis.call('SET', KEYS[2], ARGV[1])
end
redis.call('PUBLISH', KEYS[1], ARGV[2])
return 1
"""


class WriteThroughBackend(RedisBackend):
    """Celery's Redis backend, with rows for the tasks that want them.

    ``persist=True`` of a task, or in the headers of a call, writes the row before Redis is told;
    ``persist="buffered"`` tells Redis first and writes rows in batches; ``persist=False`` writes
    none. Else the setting ``PERSIST`` decides.
    Without a URL the server is that of the result store's cache alias, which must be on Redis.
    """

    app: Any
    serializer: str
    content_type: str
    content_encoding: str
    accept: Any
    expires: Any
    connection_errors: Any

    # The rows need the periodic clean-up.
    supports_autoexpire = False

    def __init__(self, app: Any, url: str | None = None, **kwargs: Any) -> None:
        # Celery's own setting of a host is an address, too.
        named = kwargs.get("host") or app.conf.get("redis_host")
        server = None if named and url in (None, SCHEME) else choose_server(url)
        super().__init__(app=app, url=server, **kwargs)
        if self.accept is not None:
            self.accept = {*self.accept, self.content_type}
        self._set_script = self.client.register_script(SET_RANKED)
        self.database = DatabaseBackend(
            self.app, serializer=self.serializer, accept=self.accept, expires=self.expires
        )

    # Values and errors.

    def prepare_exception(self, exc: BaseException, serializer: str | None = None) -> Any:
        """Return an error as type and text, whichever the serializer."""
        return error_data(exc)

    def exception_to_python(self, exc: Any) -> Any:
        """Return the exception that a stored error stands for; import nothing, run no class."""
        return rebuild_error(exc)

    def prepare_value(self, result: Any) -> Any:
        """Return a value as it is serialized: results of Celery as tuples of ids."""
        return result.as_tuple() if isinstance(result, ResultBase) else result  # type: ignore[attr-defined]

    def _encode(self, data: Any) -> Any:
        payload: Any
        content_type, encoding, payload = dumps(data, serializer=self.serializer)
        return content_type, encoding, seal(payload) if content_type in PICKLE else payload

    def decode(self, payload: Any) -> Any:
        """Return the value of a payload.

        Raises:
            RecordRejected: It was pickled elsewhere.
        """
        if payload is None:
            return None
        decompress = getattr(celery_base, "decompress_payload", None)
        raw = payload if decompress is None else decompress(payload)
        if self.content_type in PICKLE:
            raw = unseal(raw)
        return loads(raw, self.content_type, self.content_encoding, accept=self.accept)

    # Writes: the row first, then Redis.

    def persists(self, request: Any) -> bool | str:
        """Return whether a request's results have rows: False, True or ``"buffered"``."""
        # A header of one call, else what the task says, else the setting.
        persist = getattr(request, "persist", None)
        if persist is None:
            persist = getattr(self.app.tasks.get(getattr(request, "task", None)), "persist", None)
        return get_results_settings().persist if persist is None else persist

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **kwargs: Any,
    ) -> Any:
        body = _body.get()
        if request is None and body is not None and body.id == task_id:
            # The body of a chord that fails before it was called: Celery names no task.
            request = Context({"id": task_id, "task": body.task})
        persist = self.persists(request)
        meta = self._get_result_meta(
            result=result, state=state, traceback=traceback, request=request
        )
        meta["task_id"] = task_id
        retries = int(getattr(request, "retries", None) or 0)
        if persist:
            record = self.database.make_record(task_id, result, state, traceback, request)
            if persist == "buffered":
                self._tell(meta, rank(retries, state))
                rows = self.database.TaskModel.objects
                get_buffer(rows.store_rows).put(self.database.make_row(record, request))
                return result
            if not self.database.save(record, request):
                # A later state is stored: Redis may not know it, if its writer was killed.
                stored = self.database.load(task_id)
                if stored is None:
                    return result
                retries, state = int(stored["retries"]), str(stored["status"])
                meta = self._as_stored(stored)
        self._tell(meta, rank(retries, state))
        return result

    def _get_result_meta(
        self, result: Any, state: str, traceback: Any, request: Any, **kwargs: Any
    ) -> dict[str, Any]:
        meta: dict[str, Any] = super()._get_result_meta(  # type: ignore[misc]
            result=result, state=state, traceback=traceback, request=request, **kwargs
        )
        if "args" in meta and self.database.redacts(request):
            meta["args"], meta["kwargs"] = self.database.arguments(request)
        return meta

    def exception_safe_to_retry(self, exc: Exception) -> bool:
        """Tell whether another try can help: of a server that is away, Redis or the database."""
        return super().exception_safe_to_retry(exc) or self.database.exception_safe_to_retry(exc)

    def _as_stored(self, meta: dict[str, Any]) -> dict[str, Any]:
        done = meta["date_done"]
        result = self.encode_result(meta["result"], meta["status"])
        return {**meta, "result": result, "date_done": None if done is None else done.isoformat()}

    def _tell(self, meta: dict[str, Any], number: int) -> None:
        key = self.get_key_for_task(meta["task_id"])
        failed = meta["status"] == states.FAILURE
        expires = getattr(self, "failure_expires", self.expires) if failed else self.expires
        values = [number, self.encode(meta), int(expires or 0)]
        self.ensure(self._set_script, ([key, _rank_key(key)], values))

    def chord_error_from_stack(self, callback: Any, exc: Any = None) -> Any:
        """Fail the body of a chord, whose row is written too where its task wants one."""
        token = _body.set(callback)
        try:
            return super().chord_error_from_stack(callback, exc)
        finally:
            _body.reset(token)

    # Reads: Redis, else the database.

    def _get_task_meta_for(self, task_id: str) -> Any:
        try:
            payload = self.get(self.get_key_for_task(task_id))
        except self.connection_errors:
            stored = self.database.load(task_id)
            if stored is None:
                raise
            return stored
        if payload:
            return self.decode_result(payload)
        return self.database._get_task_meta_for(task_id)

    def task_result_exists(self, task_id: str) -> bool:
        """Tell whether Redis or the database knows the task."""
        key = self.get_key_for_task(task_id)
        return bool(self.get(key)) or self.database.task_result_exists(task_id)

    def mget(self, keys: Any) -> Any:
        """Return what is stored under each key; nothing while Redis cannot be reached."""
        try:
            return super().mget(keys)
        except self.connection_errors as error:
            logger.warning("Results are read from the database alone: %s", error)
            return [None] * len(keys)

    def _mget_to_results(self, values: Any, keys: Any, *args: Any, **kwargs: Any) -> Any:
        found = super()._mget_to_results(values, keys, *args, **kwargs)  # type: ignore[misc]
        missing = {key for key, value in zip(keys, values, strict=True) if value is None}
        return {**found, **self.database.load_ready(missing)} if missing else found

    def _forget(self, task_id: str) -> None:
        key = self.get_key_for_task(task_id)
        self.database._forget(task_id)
        self.client.delete(key, _rank_key(key))

    # Groups: rows too where all tasks have them.

    def _save_group(self, group_id: str, result: Any) -> Any:
        if get_results_settings().persist:
            self.database._save_group(group_id, result)
        return super()._save_group(group_id, result)  # type: ignore[misc]

    def _restore_group(self, group_id: str) -> Any:
        found = super()._restore_group(group_id)  # type: ignore[misc]
        return found or self.database._restore_group(group_id)

    def _delete_group(self, group_id: str) -> None:
        self.database._delete_group(group_id)
        super()._delete_group(group_id)  # type: ignore[misc]

    def cleanup(self) -> None:
        """Delete the rows that are older than ``expires``; Redis expires by itself."""
        self.database.cleanup()


def _rank_key(key: Any) -> Any:
    return key + (b":rank" if isinstance(key, bytes) else ":rank")
