"""Chords: an outcome and its count are one step, and the last part calls the body before it ends.

Celery stores a part's outcome and then has it counted. A worker's child that is killed in between
leaves a SUCCESS that nobody counts: the worker sees it and takes the task for done. So each backend
does both in `end_part`, and calls the body before the outcome of the last part can be seen. A part
whose process is killed on the way has not ended; it is delivered again and all is done again. The
body is then called twice at most, under the same task id.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar

from celery import maybe_signature, states
from celery.app.task import Context
from celery.exceptions import ChordError
from celery.result import GroupResult, result_from_tuple
from kombu.exceptions import KombuError

from async_cache.results.backends.contents import ContentsMixin
from async_cache.results.backends.limits import warn_of_limits
from async_cache.results.backends.publishing import publish_body
from async_cache.results.exceptions import RecordRejected, TaskFailed
from async_cache.results.records import READY_STATES, Record

__all__ = ["ChordsMixin", "call_body", "part_ids"]

logger = logging.getLogger("async_cache.results")

# The ids of the parts that the running `mark_as_…` has counted; None outside of one.
_counted: ContextVar[set[str] | None] = ContextVar("async_cache_counted_parts", default=None)


class ChordsMixin(ContentsMixin):
    """Counts the parts of chords; put it before one of Celery's base classes.

    Attributes:
        kind: Backends of one kind count each other's chords.
    """

    kind: ClassVar[str]

    def save(self, record: Record, request: Any = None, using: str | None = None) -> bool:
        """Store a record; return False when it was refused, since a later state is stored."""
        raise NotImplementedError

    def end_part(self, record: Record, request: Any) -> None:
        """Store the record of a part and count it; the last one calls the body."""
        raise NotImplementedError

    def start_chord(self, group_id: str, size: int, parts: list[Any]) -> None:
        """Store what a chord's header consists of: how many parts, and their result tuples."""
        raise NotImplementedError

    def apply_chord(self, header_result_args: Any, body: Any, **kwargs: Any) -> None:
        """Begin to count a chord, before its header is sent."""
        self.ensure_chords_allowed()
        header = self.app.GroupResult(*header_result_args)
        parts = [result.as_tuple() for result in header]
        self.start_chord(header.id, body.get("chord_size") or len(parts), parts)

    # Celery stores and counts in these. What a task stores itself with `update_state` is no end.

    def mark_as_done(self, *args: Any, **kwargs: Any) -> Any:
        """Store the result of a task, and count it where it is part of a chord."""
        with _counting():
            return super().mark_as_done(*args, **kwargs)

    def mark_as_failure(self, *args: Any, **kwargs: Any) -> Any:
        """Store the error of a task, and count it where it is part of a chord."""
        with _counting():
            return super().mark_as_failure(*args, **kwargs)

    def mark_as_revoked(self, *args: Any, **kwargs: Any) -> Any:
        """Store that a task was revoked, and count it where it is part of a chord."""
        with _counting():
            return super().mark_as_revoked(*args, **kwargs)

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
        counted = _counted.get()
        if counted is None or state not in READY_STATES or not self._counts(request):
            self.save(record, request, kwargs.get("using"))
            return result
        self.end_part(record, request)
        counted.add(record.id)
        return result

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:
        """Count a part of a header that is not counted yet; the last one calls the body."""
        if not request.id or not request.group:
            return
        if not self._counts(request):
            # Bound to this task beside the app's backend, which made the chord and counts it.
            warn_of_limits(self, request)
            self.app.backend.on_chord_part_return(request, state, result, **kwargs)
            return
        counted = _counted.get()
        if counted is None or request.id not in counted:
            # A part that ignores its result: the body wants it nevertheless.
            with _counting():
                self.store_result(request.id, result, state, request=request)

    def _counts(self, request: Any) -> bool:
        """Return whether a request is part of a chord that backends of this kind count."""
        known = getattr(request, "chord", None) and getattr(request, "group", None)
        return bool(known) and getattr(self.app.backend, "kind", None) == self.kind


@contextmanager
def _counting() -> Iterator[None]:
    token = _counted.set(set())
    try:
        yield
    finally:
        _counted.reset(token)


def part_ids(parts: Sequence[Any], app: Any) -> list[str]:
    """Return the ids of a header's parts, those of nested groups too."""
    return list(_leaves([result_from_tuple(part, app) for part in parts]))


def _leaves(results: Collection[Any]) -> Iterator[str]:
    for result in results:
        if isinstance(result, GroupResult):
            yield from _leaves(result.results or ())
        else:
            yield result.id


def call_body(
    backend: Any,
    parts: Sequence[Any],
    load: Callable[[], Mapping[str, Mapping[str, Any]]],
    request: Any,
) -> None:
    """Call the body of a chord with the results of its header, or fail it with their error.

    Args:
        backend: Where the body is failed.
        parts: Result tuples of the header, in order.
        load: Returns Celery's meta of each part, by id.
        request: Of the part that ended last; it carries the body.
    """
    app = backend.app
    body: Any = maybe_signature(request.chord, app=app)
    try:
        values = _values([result_from_tuple(part, app) for part in parts], load())
    except (ChordError, RecordRejected, KombuError) as error:
        logger.warning("The chord %s fails: %s", request.group, type(error).__qualname__)
        failed = error if isinstance(error, ChordError) else _chord_error(repr(error), error)
        _fail_body(backend, body, failed)
        return
    try:
        publish_body(app, body, values)
    except Exception as error:
        logger.exception("The body of the chord %s could not be published.", request.group)
        _fail_body(backend, body, _chord_error(f"Callback error: {error!r}", error))


def _fail_body(backend: Any, body: Any, error: ChordError) -> None:
    backend.chord_error_from_stack(body, error)
    options = body.options
    if options.get("chord") and options.get("group_id"):
        # It is part of an outer chord, which Celery would leave open.
        request = Context(body)
        request.update(options, id=body.id, group=options["group_id"])
        backend.on_chord_part_return(request, states.FAILURE, error)


def _chord_error(text: str, cause: BaseException) -> ChordError:
    error = ChordError(text)
    error.__cause__ = cause
    return error


def _values(results: Collection[Any], metas: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    """Return the values of results, those of groups as lists.

    Raises:
        ChordError: One of them failed, or is no longer stored.
    """
    values: list[Any] = []
    for result in results:
        if isinstance(result, GroupResult):
            values.append(_values(result.results or (), metas))
            continue
        meta = metas.get(result.id)
        if meta is None:
            raise ChordError(f"The result of {result.id} is no longer stored")
        if meta["status"] in states.PROPAGATE_STATES:
            cause = meta["result"]
            error = cause if isinstance(cause, Exception) else TaskFailed(meta["status"], "")
            raise ChordError(f"Dependency {result.id} raised {error!r}") from error
        values.append(meta["result"])
    return values
