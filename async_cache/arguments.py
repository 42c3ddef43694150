"""Django's own types as arguments: their form in a key, and how a message brings them back.

Importing this module registers the forms:

- A model instance is its class as given (a proxy is not its concrete model), its primary key, and
  the database that the routers would write it to. A row read from a replica and the same row read
  from the primary are then one argument, and two shards' rows of one primary key are two. It is
  loaded from that database, too, since a replica may not have it yet.
- A model class is its label.
- A lazy object, such as ``request.user``, is what it wraps. A lazy translation is its text in the
  language now active; a job whose fetch depends on the language declares ``vary``.
"""

from __future__ import annotations

from typing import Any, Final, NoReturn

from django.apps import apps
from django.core.exceptions import ValidationError
from django.db import router
from django.db.models import Model, QuerySet
from django.db.models.base import ModelBase
from django.db.models.manager import BaseManager
from django.db.models.query import RawQuerySet
from django.utils.connection import ConnectionDoesNotExist
from django.utils.functional import LazyObject, Promise
from django.utils.safestring import SafeString

from async_cache.canonical import Refusal, Tagged, encode_argument
from async_cache.exceptions import MessageRejected

__all__ = ["MODEL", "MODEL_CLASS", "Rows", "load_model_class"]

MODEL: Final = "model"
MODEL_CLASS: Final = "modelclass"

_TEXT: Final = (str, SafeString)
_CHUNK: Final = 500  # fewer than any supported database's limit of parameters


@encode_argument.register
def _encode_model(value: Model) -> Tagged:
    model = type(value)
    label = model._meta.label
    key = _prepared_key(value)
    if key is None or (isinstance(key, tuple) and None in key):
        raise Refusal(f"is an unsaved {label}", "save it first, or pass the values it holds")
    return Tagged(MODEL, (label, key, router.db_for_write(model, instance=value)))


@encode_argument.register
def _encode_model_class(value: ModelBase) -> Tagged:
    meta = getattr(value, "_meta", None)
    if meta is None or meta.abstract:
        raise Refusal("is an abstract model", "pass a model that has a table")
    return Tagged(MODEL_CLASS, meta.label)


@encode_argument.register(LazyObject)
def _encode_lazy_object(value: Any) -> object:
    # What pickle would store is the object inside, set up first if need be.
    return value.__reduce__()[1][0]


@encode_argument.register
def _encode_promise(value: Promise) -> str:
    # Pickle would store a function, its two kinds of arguments, and the types of its result.
    # A plural without its number has something else there: its text is not known yet.
    results = value.__reduce__()[1][3:]
    if not results or any(result not in _TEXT for result in results):
        raise Refusal(
            f"is lazy and not plain text ({type(value).__qualname__})", "pass what it evaluates to"
        )
    return str(value)


@encode_argument.register(QuerySet)
@encode_argument.register(RawQuerySet)
def _refuse_queryset(value: Any) -> NoReturn:
    raise Refusal(
        "is a lazy queryset",
        "pass the values it filters by, or list(queryset.values_list('pk', flat=True))",
    )


@encode_argument.register(BaseManager)
def _refuse_manager(value: Any) -> NoReturn:
    raise Refusal("is a manager", "pass the model, or the primary key of the object it hangs on")


def load_model_class(label: object) -> type[Model]:
    """Return the model that a message names.

    Raises:
        MessageRejected: There is no such model in this process.
    """
    try:
        if isinstance(label, str):
            return apps.get_model(label)
    except (LookupError, ValueError) as error:
        raise MessageRejected(f"The message names the model {label!r}: {error}") from error
    raise MessageRejected("The message names a model by something else than a label.")


class Rows:
    """The model instances that one message names: one query for each model and database.

    Tell it of every instance with `want` first. The first `get` for a model and database loads
    all of theirs.
    """

    def __init__(self) -> None:
        self._wanted: dict[tuple[str, str], set[Any]] = {}
        self._loaded: dict[tuple[str, str], dict[Any, Model]] = {}

    def want(self, label: str, key: Any, alias: str) -> None:
        """Note that an instance will be asked for."""
        self._wanted.setdefault((label, alias), set()).add(key)

    def get(self, label: str, key: Any, alias: str) -> Model:
        """Return an instance.

        Raises:
            MessageRejected: The model, the database or the row does not exist (any more).
            django.db.Error: The database does not answer.
        """
        place = (label, alias)
        if place not in self._loaded:
            self._loaded[place] = _load(load_model_class(label), alias, self._wanted[place])
        try:
            return self._loaded[place][key]
        except KeyError:
            raise MessageRejected(
                f"The message names a {label} that is not in the database {alias!r} (any more)."
            ) from None


def _load(model: type[Model], alias: str, keys: set[Any]) -> dict[Any, Model]:
    # The base manager: what a default manager hides may still be an argument.
    rows = model._base_manager.using(alias)
    wanted = list(keys)
    loaded: dict[Any, Model] = {}
    try:
        for start in range(0, len(wanted), _CHUNK):
            for row in rows.filter(pk__in=wanted[start : start + _CHUNK]):
                loaded[_prepared_key(row)] = row
    except ConnectionDoesNotExist as error:
        raise MessageRejected(
            f"The message names the database {alias!r}, which is not in DATABASES."
        ) from error
    return loaded


def _prepared_key(instance: Model) -> Any:
    """Return the primary key as the database gets it: ``"5"`` and ``5`` name one row."""
    fields = instance._meta.pk_fields
    try:
        if len(fields) == 1:
            return fields[0].get_prep_value(instance.pk)
        return tuple(field.get_prep_value(getattr(instance, field.attname)) for field in fields)
    except (TypeError, ValueError, ValidationError) as error:
        raise Refusal(
            f"is a {instance._meta.label} with an impossible primary key",
            "pass an instance from the database",
        ) from error
