"""Jobs that cache ORM reads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db.models import Field, Manager, Model, QuerySet
from django.db.models.manager import BaseManager

from async_cache.exceptions import ConfigurationError
from async_cache.jobs.base import AsyncCacheJob
from async_cache.jobs.specs import Spec, build, describe, model_of
from async_cache.keys import Call

__all__ = ["QuerySetFilterJob", "QuerySetGetJob"]

M = TypeVar("M", bound=Model)
V = TypeVar("V")

Source = type[M] | Manager[M] | QuerySet[M]


class _QuerySetJob(AsyncCacheJob[V], Generic[M, V]):
    """What the two jobs share: a queryset that the worker can build again.

    Args:
        source: A model, a manager or a queryset. Of a queryset travel its model, database, plain
            filters by value, ordering, ``select_related``, ``prefetch_related``, ``only`` and
            ``defer``; any other is refused with an error that says to subclass.
    """

    abstract = True

    model: ClassVar[type[Model] | None] = None

    _spec: Spec | None

    if TYPE_CHECKING:
        # The options are taken out before the real one is called.
        def __init__(
            self, source: Source[M] | tuple[Any, ...] | None = None, **options: Any
        ) -> None: ...

    else:

        def __init__(self, source=None) -> None:
            self._spec = None if source is None else describe(source)
            if self._spec is None and self.model is None:
                raise ConfigurationError(
                    f"{type(self).__qualname__} needs a model: pass one, or set `model` on the "
                    "class."
                )

    @classmethod
    def portable_constructor(
        cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """Replace the source by its description, which has a canonical form and travels."""
        if cls.__init__ is not _QuerySetJob.__init__:
            # A subclass has arguments of its own, all of them part of the key.
            return tuple(map(_portable, args)), {k: _portable(v) for k, v in kwargs.items()}
        source = args[0] if args else kwargs.get("source")
        return ((describe(source),) if source is not None else ()), {}

    @property
    def model_class(self) -> Any:
        """The model that is read."""
        if self._spec is not None:
            return model_of(self._spec)
        assert self.model is not None
        return self.model

    @property
    def job_name(self) -> str:
        """The class's name and the model's label, as settings name it."""
        return f"{type(self).registered_name}:{self.model_class._meta.label}"

    def get_queryset(self) -> QuerySet[M]:
        """Return what is looked up in; override it for anything that a message cannot carry."""
        if self._spec is not None:
            return build(self._spec)
        assert self.model is not None
        return cast("QuerySet[M]", self.model._default_manager.all())


class QuerySetGetJob(_QuerySetJob[M, M]):
    """Cache one object of a queryset.

    ::

        user = QuerySetGetJob(User).get(username="bob")

    ``DoesNotExist`` and ``MultipleObjectsReturned`` are answers: they are cached for
    ``negative_ttl`` and raised on a hit as on a miss.
    """

    name = "async_cache.QuerySetGetJob"

    if TYPE_CHECKING:
        # A call may also be a scalar, which is the pk.
        def get_many(self, calls: Iterable[Any]) -> list[M | Exception]:
            """Return the objects of several calls; a scalar is a pk."""

        async def aget_many(self, calls: Iterable[Any]) -> list[M | Exception]:
            """Do what `get_many` does without blocking the event loop."""

        def refresh_many(self, calls: Iterable[Any]) -> int:
            """Hand refreshes of several calls to workers; a scalar is a pk."""

        async def arefresh_many(self, calls: Iterable[Any]) -> int:
            """Do what `refresh_many` does without blocking the event loop."""

    def fetch(self, **lookup: Any) -> M:
        """Look the object up."""
        return self.get_queryset().get(**lookup)

    @property
    def negative(self) -> tuple[type[Exception], ...]:
        """The answers of this model's lookups that are no failures."""
        model = self.model_class
        return (model.DoesNotExist, model.MultipleObjectsReturned)

    def fetch_many(self, calls: Sequence[Call]) -> list[Any]:
        """Look several objects up; those by one and the same field in one query."""
        answers: dict[int, Any] = {}
        groups: defaultdict[str, list[int]] = defaultdict(list)
        for index, one in enumerate(calls):
            names = list(one.kwargs)
            field = self._plain_field(names[0]) if len(names) == 1 else None
            if field is not None and one.kwargs[names[0]] is not None:
                groups[names[0]].append(index)
        for name, indexes in groups.items():
            answers.update(self._in_one_query(name, calls, indexes))
        for index, one in enumerate(calls):
            if index not in answers:
                answers[index] = self._one(one)
        return [answers[index] for index in range(len(calls))]

    def _call(self, one: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        if isinstance(one, Call | tuple | Mapping):
            return super()._call(one)
        return (), {"pk": one}

    def _plain_field(self, name: str) -> Field[Any, Any] | None:
        meta = self.model_class._meta
        try:
            field = meta.pk if name == "pk" else meta.get_field(name)
        except FieldDoesNotExist:
            return None
        plain = isinstance(field, Field) and not field.is_relation and not _is_composite(field)
        return cast("Field[Any, Any]", field) if plain else None

    def _in_one_query(
        self, name: str, calls: Sequence[Call], indexes: Sequence[int]
    ) -> dict[int, Any]:
        field = self._plain_field(name)
        assert field is not None
        wanted: dict[int, Any] = {}
        for index in indexes:
            try:
                wanted[index] = field.to_python(calls[index].kwargs[name])
                hash(wanted[index])
            except (ValidationError, TypeError):
                wanted.pop(index, None)  # the lookup on its own raises what it raises
        rows: defaultdict[Any, list[M]] = defaultdict(list)
        found = self.get_queryset().filter(**{f"{name}__in": set(wanted.values())})
        for row in found:
            rows[getattr(row, field.attname)].append(row)
        if set(rows) - set(wanted.values()):
            return {}  # the database compares more loosely than Python: one by one
        model = self.model_class
        answers: dict[int, Any] = {}
        for index, value in wanted.items():
            matched = rows.get(value, [])
            if len(matched) == 1:
                answers[index] = matched[0]
            elif matched:
                answers[index] = model.MultipleObjectsReturned(
                    f"get() returned more than one {model._meta.object_name} -- "
                    f"it returned {len(matched)}!"
                )
            else:
                answers[index] = model.DoesNotExist(
                    f"{model._meta.object_name} matching query does not exist."
                )
        return answers

    def _one(self, one: Call) -> Any:
        try:
            return self.fetch(**one.kwargs)
        except Exception as error:  # noqa: BLE001 - it stands in the place of the value
            return error


class QuerySetFilterJob(_QuerySetJob[M, list[M]]):
    """Cache the matching objects of a queryset, as a list.

    ::

        staff = QuerySetFilterJob(User).filter(is_staff=True)
    """

    name = "async_cache.QuerySetFilterJob"

    def fetch(self, **lookup: Any) -> list[M]:
        """Read the matching objects."""
        return list(self.get_queryset().filter(**lookup))

    def filter(self, **lookup: Any) -> list[M]:
        """Return the matching objects; the same as `get`."""
        return self.get(**lookup)

    async def afilter(self, **lookup: Any) -> list[M]:
        """Do what `filter` does without blocking the event loop."""
        return await self.aget(**lookup)


def _portable(argument: Any) -> Any:
    return describe(argument) if isinstance(argument, BaseManager | QuerySet) else argument


def _is_composite(field: Any) -> bool:
    return field.column is None
