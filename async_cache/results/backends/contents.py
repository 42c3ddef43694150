"""What the backends share: how a task's outcome becomes a record, and a record Celery's meta."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Mapping
from types import FunctionType
from typing import Any, Final

from celery import states
from celery.app.task import Context
from celery.result import ResultBase
from celery.utils.saferepr import saferepr
from kombu.serialization import dumps, loads
from kombu.utils.encoding import bytes_to_str

from async_cache import clock
from async_cache.results import codec
from async_cache.results.backends.times import sent_at, started_at
from async_cache.results.backends.waiting import WaitingMixin
from async_cache.results.exceptions import TaskFailed
from async_cache.results.layers import Layer, get_database_layer
from async_cache.results.pickles import PICKLE, seal, unseal
from async_cache.results.records import READY_STATES, STARTED, Record
from async_cache.results.rows import from_text, to_text
from async_cache.results.utils import from_timestamp
from async_cache.signals import error_name

__all__ = ["ContentsMixin", "error_data", "rebuild_error"]

logger = logging.getLogger("async_cache.results")

# Kept in fields of their own, or not at all: the rest of Celery's meta is the record's meta.
_FIELDS: Final = frozenset(
    {"status", "result", "traceback", "date_done", "group_id", "name", "args", "kwargs"}
    | {"worker", "retries"}
)


def error_data(error: BaseException) -> dict[str, Any]:
    """Return an error as type and text, in the fields that Celery gives them."""
    data: dict[str, Any] = json.loads(codec.encode_error(error).value)
    return data


def rebuild_error(stored: Any, state: str = states.FAILURE) -> BaseException | None:
    """Return the exception that a stored error stands for.

    Its own class where that is an exception of a module already imported, else `TaskFailed`.
    """
    if not stored or isinstance(stored, BaseException):
        return stored or None
    if not isinstance(stored, Mapping):
        return TaskFailed(state, str(stored))
    data = {name: stored.get(name) for name in ("exc_type", "exc_module", "exc_message")}
    if not isinstance(data["exc_type"], str):
        return TaskFailed(state, str(dict(stored)))
    value = json.dumps(data, default=str).encode()
    return codec.decode_error(Record(id="", state=state, value=value))


def _redactor(task: Any) -> Any:
    """Return what says which arguments are kept; the decorator makes a function a method."""
    given = inspect.getattr_static(task, "redact", None)
    if isinstance(given, FunctionType) and given.__code__.co_argcount == 2:
        return given
    return getattr(task, "redact", None)


class ContentsMixin(WaitingMixin):
    """Encoding, errors, waiting: put it before one of Celery's base classes."""

    serializer: str
    content_type: str
    content_encoding: str
    accept: Any
    expires: Any
    app: Any
    _cache: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.accept is not None:
            # A backend reads what it writes; pickle is sealed.
            self.accept = {*self.accept, self.content_type}

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

    def encode_content(self, data: Any) -> tuple[str, str, str]:
        """Return content type, content encoding and the text of a serialized value."""
        payload: Any
        content_type, encoding, payload = dumps(data, serializer=self.serializer)
        raw = payload.encode() if isinstance(payload, str) else bytes(payload)
        if content_type in PICKLE:
            raw = seal(raw)
        return content_type, encoding, to_text(raw, encoding)

    def decode_content(self, obj: Any, content: str | None) -> Any:
        """Return a value from its text.

        Args:
            obj: What has its ``content_type`` and ``content_encoding``.
            content: The text.

        Raises:
            RecordRejected: It is no base64, or pickled elsewhere.
            ContentDisallowed: The backend does not accept its content type.
        """
        if not content:
            return None
        content_type = obj.content_type or self.content_type
        encoding = obj.content_encoding or self.content_encoding
        return self._decode_bytes(from_text(content, encoding), content_type, encoding)

    def _decode_bytes(self, raw: bytes, content_type: str, encoding: str) -> Any:
        if content_type in PICKLE:
            raw = unseal(raw)
        return loads(raw, content_type, encoding, accept=self.accept)

    # Records.

    def make_record(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None
    ) -> Record:
        """Return the record of an outcome.

        Args:
            task_id: Id of the task.
            result: As `encode_result` returned it.
            state: One of Celery's, or the project's own.
            traceback: Text.
            request: What Celery knows of the call.
        """
        if request is None:
            # A Context of no task: Celery would take the children of the task that runs now.
            request = Context({"id": task_id})
        content_type, encoding, text = self.encode_content(result)
        known = self._get_result_meta(None, state, None, request, format_date=False)  # type: ignore[attr-defined]
        meta = {name: value for name, value in known.items() if name not in _FIELDS}
        moment = clock.now()
        args, kwargs = self.arguments(request)
        return Record(
            id=bytes_to_str(task_id),
            name=getattr(request, "task", None) or "",
            state=state,
            retries=int(getattr(request, "retries", None) or 0),
            queued=sent_at(request),
            started=started_at(request) or (moment if state == STARTED else None),
            finished=moment if state in READY_STATES else None,
            worker=getattr(request, "hostname", None) or "",
            group=getattr(request, "group", None) or "",
            sequence=getattr(request, "group_index", None),
            value=from_text(text, encoding),
            content_type=content_type,
            content_encoding=encoding,
            traceback="" if traceback is None else str(traceback),
            meta=self.encode_content(meta)[2],
            args=args,
            kwargs=kwargs,
        )

    def redacts(self, request: Any) -> bool:
        """Whether the task of a request says which of its arguments may be kept."""
        return _redactor(self.app.tasks.get(getattr(request, "task", None))) is not None

    def arguments(self, request: Any) -> tuple[str, str]:
        """Return the text of the arguments where ``result_extended`` asks for them."""
        if not self.app.conf.find_value_for_key("extended", "result"):
            return "", ""
        task = self.app.tasks.get(getattr(request, "task", None))
        args, kwargs = getattr(request, "args", None), getattr(request, "kwargs", None)
        redact = _redactor(task)
        if redact is not None:
            try:
                args, kwargs = redact(args or (), kwargs or {})
            except Exception as error:  # noqa: BLE001 - the result is worth more than its arguments
                kind = error_name(error)
                logger.error("The redact of %s raised %s: no arguments kept.", request.task, kind)
                return "", ""
            return saferepr(args), saferepr(kwargs)
        # What the sender wrote for others to see, else the arguments.
        texts = (getattr(request, "argsrepr", None), getattr(request, "kwargsrepr", None))
        return tuple(  # type: ignore[return-value]
            str(text) if text is not None else "" if value is None else saferepr(value)
            for text, value in zip(texts, (args, kwargs), strict=True)
        )

    def meta_of(self, record: Record) -> dict[str, Any]:
        """Return what Celery calls the meta of a task.

        Raises:
            RecordRejected: Its value does not open.
        """
        result: Any = None
        if record.content_type == codec.SEALED and record.value:
            result = codec.decode_value(record)
        elif record.value:
            encoding = record.content_encoding or self.content_encoding
            kind = record.content_type or self.content_type
            result = self._decode_bytes(record.value, kind, encoding)
        if record.state in states.EXCEPTION_STATES:
            result = rebuild_error(result, record.state)
        more: Any = None
        if record.meta and record.content_type != codec.SEALED:
            more = self.decode_content(record, record.meta)
        meta: dict[str, Any] = dict(more) if isinstance(more, Mapping) else {}
        meta.setdefault("children", [])
        meta |= {
            "task_id": record.id,
            "status": record.state,
            "result": result,
            "traceback": record.traceback or None,
            "date_done": None if record.finished is None else from_timestamp(record.finished),
            "name": record.name or None,
            "worker": record.worker or None,
            "retries": record.retries,
            "args": record.args or None,
            "kwargs": record.kwargs or None,
        }
        if record.group:
            meta["group_id"] = record.group
        return meta

    def load(self, task_id: str) -> dict[str, Any] | None:
        """Return the meta of a task; None when nothing is stored of it."""
        raise NotImplementedError

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        return self.load(task_id) or {
            "task_id": task_id,
            "status": states.PENDING,
            "result": None,
            "traceback": None,
            "children": [],
            "date_done": None,
        }

    def task_result_exists(self, task_id: str) -> bool:
        """Tell whether something is stored of the task, in whichever state."""
        return self.load(task_id) is not None

    @property
    def listened_layer(self) -> Layer | None:
        """Where the results of this backend are; None where nobody can tell of them."""
        model = getattr(self, "TaskModel", None)
        ours = model is not None and model._meta.label == "async_cache_results.TaskResult"
        return get_database_layer() if ours else None
