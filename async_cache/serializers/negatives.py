"""Answers that say "there is none": exceptions stored so that the very class is raised again."""

from __future__ import annotations

import pickle
import sys
from typing import Any, Final

from django.apps import apps
from django.core.exceptions import MultipleObjectsReturned, ObjectDoesNotExist
from django.db.models import Model

from async_cache.entry import NEGATIVE, Header
from async_cache.exceptions import EntryRejected, UnstorableValue
from async_cache.serializers.base import MAX_VALUE_SIZE, Payload, check_size, type_name
from async_cache.serializers.pickled import PickleSerializer
from async_cache.serializers.rows import PLAIN_TYPES

__all__ = ["dump_negative", "load_negative"]

_KINDS: Final = ("DoesNotExist", "MultipleObjectsReturned")
_CONTAINERS: Final = frozenset({tuple, list, dict, set, frozenset})
_pickle: Final = PickleSerializer()


def dump_negative(error: Exception, *, limit: int = MAX_VALUE_SIZE) -> Payload:
    """Return the payload of an exception that is an answer.

    A model's ``DoesNotExist`` and ``MultipleObjectsReturned`` travel by the model's label, any
    other class by its module and name.

    Args:
        error: What a fetch raised, of a class that the job lists as negative.
        limit: Cap in bytes.

    Raises:
        UnstorableValue: Its class cannot be found by name, it holds more than plain data, or it
            cannot be made again from its arguments.
    """
    cls = type(error)
    for part in (error.args, vars(error)):
        if not _is_plain(part, 0):
            raise UnstorableValue(
                f"A {type_name(cls)} cannot be stored as a negative answer: its arguments and"
                " attributes must be plain data; raise one with a text."
            )
    label, kind = _of_model(cls)
    name = (label, kind) if label else (cls.__module__, cls.__qualname__)
    data = _pickle.dumps((bool(label), *name, error.args, vars(error)), limit)
    check_size(len(data), limit, error)
    try:
        again = _rebuild(*pickle.loads(data))
    except EntryRejected as rejected:
        raise UnstorableValue(
            f"A {type_name(cls)} cannot be stored as a negative answer: {rejected}; define the"
            " class at the top of a module and let it be made from its args."
        ) from rejected
    if type(again) is not cls or again.args != error.args:
        raise UnstorableValue(
            f"A {type_name(cls)} cannot be stored as a negative answer: made again from its args,"
            " it differs; pass all arguments on to Exception.__init__."
        )
    return Payload(data, NEGATIVE, _pickle.codec)


def load_negative(raw: bytes, header: Header, limit: int = MAX_VALUE_SIZE) -> Exception:
    """Return the exception of a negative entry that `entry.open_entry` has opened, to be raised.

    Raises:
        EntryRejected: Its class is not to be had in this process.
    """
    payload = raw[header.payload_at :]
    if not header.flags & NEGATIVE or header.codec != _pickle.codec or len(payload) > limit:
        raise EntryRejected("not a negative answer")
    try:
        return _rebuild(*pickle.loads(payload))
    except EntryRejected:
        raise
    except Exception as error:
        raise EntryRejected("the negative answer does not load") from error


def _rebuild(
    by_label: bool, where: str, name: str, args: tuple[Any, ...], attributes: dict[str, Any]
) -> Exception:
    cls = _model_error(where, name) if by_label else _loaded(where, name)
    if not isinstance(cls, type) or not issubclass(cls, Exception):
        raise EntryRejected(f"{where}.{name} is not an exception in this process")
    try:
        error = cls(*args)
        vars(error).update(attributes)
    except Exception as failure:
        raise EntryRejected(f"{where}.{name} cannot be made from its args") from failure
    return error


def _model_error(label: str, kind: str) -> object:
    try:
        return getattr(apps.get_model(label), kind) if kind in _KINDS else None
    except LookupError as error:
        raise EntryRejected(f"the model {label} is gone") from error


def _loaded(module: str, qualname: str) -> object:
    # Nothing is imported for a stored name: a class that this process can catch is loaded.
    found: object = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def _of_model(cls: type[Exception]) -> tuple[str, str]:
    """Return label and kind of a model's own exception, else two empty texts."""
    kind = cls.__name__
    if kind in _KINDS and issubclass(cls, (ObjectDoesNotExist, MultipleObjectsReturned)):
        named = _loaded(cls.__module__, cls.__qualname__.rpartition(".")[0])
        # The name finds the model, except one defined inside a function.
        for model in (named, *apps.get_models(True, True)):
            if not isinstance(model, type) or not issubclass(model, Model):
                continue
            if vars(model).get(kind) is cls:
                return model._meta.label, kind
    return "", ""


def _is_plain(value: object, depth: int) -> bool:
    if type(value) in PLAIN_TYPES:
        return True
    if type(value) not in _CONTAINERS or depth > 20:
        return False
    items: Any = value
    if isinstance(value, dict):
        items = [*value.keys(), *value.values()]
    return all(_is_plain(item, depth + 1) for item in items)
