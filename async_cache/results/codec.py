"""What goes into ``Record.value``: values that come back type for type, errors as type and text.

A value is written by one of the core's serializers. What ``pickle`` or a serializer of the project
wrote is sealed by itself, bound to the task's id: it stays safe wherever a layer puts it. JSON is
written plainly, for other programs to read; the layers of the cache seal it with the record.

An error is JSON: its type and its text. Nothing is imported to bring it back.
"""

from __future__ import annotations

import json
import sys
from functools import lru_cache
from hmac import compare_digest
from importlib import import_module
from typing import Any, Final, NamedTuple

from async_cache import conf
from async_cache.entry import Header, new_header
from async_cache.exceptions import EntryRejected
from async_cache.keyring import MAC_SIZE, Opener
from async_cache.results.conf import get_results_settings
from async_cache.results.exceptions import RecordRejected, TaskFailed
from async_cache.results.records import Record
from async_cache.secret_keys import get_ring
from async_cache.serializers import dump_value, get_serializer, load_value

__all__ = [
    "JSON",
    "SEALED",
    "Encoded",
    "decode_error",
    "decode_value",
    "encode_error",
    "encode_value",
    "record_opener",
]

SEALED: Final = "application/x-async-cache"
"""Content type of values that are sealed; their encoding names the serializer."""
JSON: Final = "application/json"
MAX_TEXT: Final = 10_000
"""Characters kept of an error's text."""

_HEAD: Final = 3
_MARK: Final = b'"__type__"'


class Encoded(NamedTuple):
    """A value or an error, ready for a record: ``record.replace(**encoded._asdict())``."""

    value: bytes
    content_type: str
    content_encoding: str


class _Openers(NamedTuple):
    epoch: int
    records: Opener
    values: Opener


_openers: _Openers | None = None


def _get_openers() -> _Openers:
    global _openers
    kept = _openers
    if kept is None or kept.epoch != conf.epoch:
        seen = conf.epoch
        ring, prefix = get_ring(), conf.get_settings().key_prefix
        kept = _Openers(seen, ring.opener(f"{prefix}:-record"), ring.opener(f"{prefix}:-value"))
        _openers = kept
    return kept


def record_opener() -> Opener:
    """Return what seals and opens records; made again when the secrets change."""
    return _get_openers().records


def encode_value(value: object, task_id: str, serializer: str | None = None) -> Encoded:
    """Return a value's bytes.

    Args:
        value: What the task returned.
        task_id: The task that it belongs to; it opens for no other.
        serializer: ``"pickle"``, ``"json"`` or a dotted path; None is the setting's.

    Raises:
        UnstorableValue: It would not come back the same, or it is too large.
    """
    name = serializer or get_results_settings().serializer
    found = get_serializer(name)
    limit = conf.get_settings().max_value_size
    payload = dump_value(value, found, limit=limit)
    if name == "json":
        return Encoded(payload.data, JSON, "utf-8")
    path = (payload.codec_name or "").encode()
    head = bytes((payload.flags, payload.codec, len(path)))
    body = b"".join((head, path, payload.data))
    state = _get_openers().values.copy()
    state.update(_framed(task_id) + body)
    return Encoded(state.digest() + body, SEALED, name[:64])


def decode_value(record: Record) -> Any:
    """Return the value of a record.

    Raises:
        RecordRejected: Its bytes do not open, or their content type is not one of ours.
    """
    if record.content_type != SEALED:
        return _decode_plain(record)
    raw = record.value
    body = raw[MAC_SIZE:]
    opener, name = _get_openers().values, _framed(record.id)
    state = opener.copy()
    state.update(name + body)
    if not compare_digest(state.digest(), raw[:MAC_SIZE]):
        _try_fallbacks(opener, name + body, raw[:MAC_SIZE])
    if len(body) < _HEAD:
        raise RecordRejected("the value is sealed here, but has no header")
    flags, codec, length = body[:_HEAD]
    header = _header(flags, codec, body[_HEAD : _HEAD + length])
    try:
        return load_value(body, header, conf.get_settings().max_value_size)
    except EntryRejected as error:
        raise RecordRejected(f"the value does not load: {error}") from error


def _decode_plain(record: Record) -> Any:
    if record.content_type != JSON:
        raise RecordRejected(f"the value is {record.content_type!r}, which is not read here")
    try:
        return json.loads(record.value, object_hook=_unmark if _MARK in record.value else None)
    except ValueError as error:
        raise RecordRejected("the value is no JSON") from error


def _unmark(found: dict[str, Any]) -> Any:
    """Return what Celery's JSON marks with its type: dates, Decimals, UUIDs, bytes."""
    marked = import_module("kombu.utils.json").object_hook
    try:
        return marked(found)
    except (ValueError, TypeError, ArithmeticError):
        return found  # it only looks like one


def _try_fallbacks(opener: Opener, sealed: bytes, mac: bytes) -> None:
    for fallback in opener.fallbacks:
        state = fallback.copy()
        state.update(sealed)
        if compare_digest(state.digest(), mac):
            return
    raise RecordRejected(
        "the seal of the value does not match: changed, forged, or of another SECRET_KEY"
    )


@lru_cache(maxsize=64)
def _header(flags: int, codec: int, path: bytes) -> Header:
    """Return the header with which the core's serializers read a payload."""
    header = new_header(
        entry_id=b"",
        codec=codec,
        fetch_started=0,
        fresh_until=0,
        dead_at=0,
        fetch_seconds=0,
        stamps=b"",
        flags=flags,
        codec_name=path.decode() or None,
    )
    return header._replace(payload_at=_HEAD + len(path))


def _framed(task_id: str) -> bytes:
    name = task_id.encode("utf-8", "surrogatepass")
    return len(name).to_bytes(4, "little") + name


def encode_error(error: BaseException) -> Encoded:
    """Return an error as type and text: no arguments, no state, no traceback."""
    kind = type(error)
    data = {
        "exc_type": kind.__qualname__,
        "exc_module": kind.__module__,
        "exc_message": _text(error),
    }
    return Encoded(json.dumps(data).encode(), JSON, "utf-8")


def _text(error: BaseException) -> str:
    """Return what an error says; the argument itself where its class would decorate it."""
    if len(error.args) == 1 and isinstance(error.args[0], str):
        text = str(error.args[0])
    else:
        try:
            text = str(error)
        except Exception as raised:  # noqa: BLE001 - the project's own __str__
            text = f"(its text cannot be had: {type(raised).__qualname__})"
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def decode_error(record: Record) -> Exception:
    """Return the error of a record, to be raised.

    Its own class where that is an exception of a module already imported, else `TaskFailed`. No
    constructor of the project runs.

    Raises:
        RecordRejected: The record holds no error.
    """
    try:
        data = json.loads(record.value) if record.value else {}
        name, module = str(data.get("exc_type", record.state)), str(data.get("exc_module") or "")
        text = data.get("exc_message", "")
    except (ValueError, AttributeError) as error:
        raise RecordRejected("the record holds no error") from error
    if isinstance(text, list | tuple):
        text = ", ".join(map(str, text))
    return _rebuild(module, name, str(text))


def _rebuild(module: str, name: str, text: str) -> Exception:
    path = name if module in ("", "builtins") else f"{module}.{name}"
    kind: object = sys.modules.get(module or "builtins")
    for part in name.split("."):
        # Plain look-ups: a module's own __getattr__ could import.
        kind = getattr(kind, "__dict__", {}).get(part)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        return TaskFailed(path, text)
    maker: Any = next(base for base in kind.__mro__ if base.__module__ == "builtins")
    try:
        error: Exception = maker.__new__(kind, text)
        says = str(error)
    except Exception:  # noqa: BLE001 - the project's own class; what stands in tells the same
        return TaskFailed(path, text)
    return error if text in says else TaskFailed(path, text)
