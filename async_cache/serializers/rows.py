"""Model instances as field rows: how the pickle serializer writes and rebuilds them.

A row names its *shape* (model, fields present, database, fingerprint) once a payload and then holds
the field values alone. What else hangs on an instance (related objects already loaded, prefetched
objects, annotations) follows as state. The fingerprint is compared before anything is rebuilt: a
model that was migrated since makes its old rows unreadable, which readers turn into a miss.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Callable, Mapping
from functools import lru_cache
from hashlib import blake2b
from types import NoneType
from typing import Any, Final, NoReturn, cast

import django
from django.apps import apps
from django.db.models import Model
from django.db.models.base import ModelState
from django.db.models.fields.files import FieldFile

from async_cache.exceptions import EntryRejected, UnstorableValue

__all__ = ["PLAIN_TYPES", "Row", "fingerprint", "has_own_pickling", "reduce_instance"]

Reduced = tuple[Any, ...]

PLAIN_TYPES: Final = frozenset(
    {
        NoneType,
        bool,
        int,
        float,
        complex,
        str,
        bytes,
        decimal.Decimal,
        datetime.datetime,
        datetime.date,
        datetime.time,
        datetime.timedelta,
        datetime.timezone,
        uuid.UUID,
    }
)
"""Scalars that pickle keeps type for type, and that refer to nothing else."""

_ROW_TYPES: Final = PLAIN_TYPES | {list, tuple, dict, set, frozenset}

# What a ModelState holds that is neither in a shape nor carried at all: peers are weak references
# to the instances of the same query.
_OWN_STATE: Final = frozenset({"db", "adding", "fields_cache", "peers"})


@lru_cache(maxsize=1024)
def fingerprint(model: type[Model]) -> bytes:
    """Digest what a row's meaning depends on: label, concrete fields, Django's major.minor."""
    meta = model._meta
    parts = [meta.label, *map(str, django.VERSION[:2])]
    for field in meta.concrete_fields:
        cls = type(field)
        parts += [field.attname, cls.__module__, cls.__qualname__]
    # No part can hold a line break.
    return blake2b("\n".join(parts).encode(), digest_size=8).digest()


@lru_cache(maxsize=1024)
def _attnames(model: type[Model]) -> tuple[str, ...]:
    return tuple(field.attname for field in model._meta.concrete_fields)


class Row:
    """The shape of rows, as the pickler meets it: it pickles as the function that builds one."""

    __slots__ = ("args",)

    def __init__(self, model: type[Model], names: tuple[str, ...], own: Reduced) -> None:
        meta = model._meta
        # All fields is the common case: the fingerprint says which, no need to name them.
        named = None if names == _attnames(model) else names
        self.args = (meta.app_label, meta.model_name, fingerprint(model), named, *own)

    def __call__(self, *values: object) -> NoReturn:
        """Stand in for the builder, which pickle requires to be callable."""
        raise TypeError("a shape is called only once loaded")

    def __reduce__(self) -> Reduced:
        return (_load_shape, self.args)


def reduce_instance(obj: Model, shapes: dict[Any, Row]) -> Reduced:
    """Return what pickle needs to write a model instance as a row.

    Args:
        obj: An instance of a registered model.
        shapes: The shapes met so far in this payload; a new one is added.

    Raises:
        UnstorableValue: Its class is not the one that its label names.
    """
    model = type(obj)
    if not _registered(model):
        raise UnstorableValue(
            f"{model.__module__}.{model.__qualname__} is not the model registered as"
            f" {model._meta.label!r}, so it could not be rebuilt: return a registered model."
        )
    if has_own_pickling(model):
        meta = model._meta
        function, args, *rest = cast("Reduced", obj.__reduce_ex__(5))
        checked = (meta.app_label, meta.model_name, fingerprint(model), function, args)
        return (_load_own, checked, *rest)

    # A row is written before its instance is known to pickle, so nothing in it may lead back to the
    # instance; what could, goes into the state.
    extra = dict(obj.__dict__)
    del extra["_state"]
    names: list[str] = []
    values: list[object] = []
    for name in _attnames(model):
        if name not in extra:
            continue  # deferred, and stays so
        value = extra[name]
        if isinstance(value, FieldFile):
            value = value.name  # the field's descriptor makes the FieldFile again
        if type(value) in _ROW_TYPES:
            names.append(name)
            values.append(value)
            del extra[name]

    state = obj._state
    more = tuple(item for item in sorted(vars(state).items()) if item[0] not in _OWN_STATE)
    key = (model, *names, None, state.db, state.adding, more)
    shape = shapes.get(key)
    if shape is None:
        own = (state.db, state.adding, more) if more else (state.db, state.adding)
        shape = shapes[key] = Row(model, tuple(names), own)
    related = vars(state).get("fields_cache") or None
    if not related and not extra:
        return (shape, tuple(values))
    return (shape, tuple(values), (related, extra), None, None, _set_state)


def _registered(model: type[Model]) -> bool:
    try:
        return apps.get_model(model._meta.label) is model
    except LookupError:
        return False


@lru_cache(maxsize=1024)
def has_own_pickling(model: type[Model]) -> bool:
    """Say whether a model class decides itself how it is pickled."""
    return any(
        getattr(model, name) is not getattr(Model, name)
        for name in ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__")
    )


def _model(app_label: str, name: str, digest: bytes) -> type[Model]:
    try:
        model: type[Model] = apps.get_model(app_label, name)
    except LookupError as error:
        raise EntryRejected(f"the model {app_label}.{name} is gone") from error
    if fingerprint(model) != digest:
        raise EntryRejected(f"the fields of {app_label}.{name}, or Django, changed since")
    return model


def _load_shape(
    app_label: str,
    name: str,
    digest: bytes,
    names: tuple[str, ...] | None,
    db: str | None,
    adding: bool,
    more: tuple[tuple[str, object], ...] = (),
) -> Callable[..., Model]:
    model = _model(app_label, name, digest)
    return _builder(model, names, db, adding, more)


@lru_cache(maxsize=1024)
def _builder(
    model: type[Model],
    named: tuple[str, ...] | None,
    db: str | None,
    adding: bool,
    more: tuple[tuple[str, object], ...],
) -> Callable[..., Model]:
    new = model.__new__
    names = _attnames(model) if named is None else named

    def build(*values: object) -> Model:
        # As Model.__setstate__ does: no __init__, no signals, what was in __dict__ is again.
        obj = new(model)
        state = ModelState()
        state.db = db
        state.adding = adding
        if more:
            vars(state).update(more)
        held = obj.__dict__
        held["_state"] = state
        held.update(zip(names, values, strict=True))
        return obj

    return build


def _load_own(
    app_label: str, name: str, digest: bytes, function: Callable[..., Any], args: Reduced
) -> Any:
    _model(app_label, name, digest)
    return function(*args)


def _set_state(
    obj: Model, state: tuple[Mapping[str, Model | None] | None, Mapping[str, object]]
) -> None:
    related, extra = state
    if related is not None:
        vars(obj._state)["fields_cache"] = related
    obj.__dict__.update(extra)
