"""A queryset as plain data that a message carries, and back.

What is read off a queryset is built again at once and compared as SQL: whatever a description
cannot hold shows there, and is refused rather than lost.
"""

from __future__ import annotations

from typing import Any, Final, NoReturn, TypeAlias

from django.apps import apps
from django.core.exceptions import EmptyResultSet, FieldError
from django.db.models import Manager, Model, QuerySet
from django.db.models.expressions import Col
from django.db.models.lookups import Lookup
from django.db.models.manager import BaseManager
from django.db.models.query import ModelIterable, RawQuerySet
from django.db.models.sql.where import AND, WhereNode

from async_cache.exceptions import ConfigurationError

__all__ = ["Spec", "build", "describe", "model_of"]

Spec: TypeAlias = "type[Model] | tuple[Any, ...]"
"""A model class, or a description that starts with ``"manager"`` or ``"queryset"``."""

_REMEDY: Final = (
    "Subclass the job and override get_queryset(), so that the worker builds it from your code."
)


def describe(source: Any) -> Spec:
    """Return a model, manager or queryset as plain data.

    Raises:
        ConfigurationError: It cannot travel to a worker; the message says why and what to do.
    """
    if isinstance(source, type) and issubclass(source, Model):
        if source._meta.abstract:
            _refuse(source.__name__, "is an abstract model")
        return source
    if isinstance(source, tuple) and source and source[0] in ("manager", "queryset"):
        return source
    if isinstance(source, BaseManager):
        return _describe_manager(source)
    if isinstance(source, RawQuerySet):
        _refuse("the queryset", "is raw SQL")
    if isinstance(source, QuerySet):
        return _describe_queryset(source)
    raise ConfigurationError(
        f"A QuerySet job is made from a model, a manager or a queryset, "
        f"not a {type(source).__qualname__}."
    )


def model_of(spec: Spec) -> type[Model]:
    """Return the model behind a description."""
    if isinstance(spec, type):
        return spec
    return apps.get_model(spec[1])


def build(spec: Spec) -> QuerySet[Any]:
    """Return the queryset that a description stands for."""
    if isinstance(spec, type):
        return spec._default_manager.all()
    if spec[0] == "manager":
        _, label, name, using = spec
        manager: Manager[Any] = getattr(apps.get_model(label), name)
        return manager.using(using) if using else manager.all()
    return _build_queryset(spec)


def _refuse(what: str, problem: str) -> NoReturn:
    raise ConfigurationError(f"{what} {problem}, so it cannot travel to a worker. {_REMEDY}")


def _describe_manager(manager: Any) -> Spec:
    model, name = manager.model, manager.name
    if model is None or name is None or type(getattr(model, name, None)) is not type(manager):
        _refuse("the manager", "belongs to an instance or has no name on its model")
    if getattr(manager, "instance", None) is not None:
        _refuse(f"{model._meta.label}.{name}", "belongs to an instance")
    return ("manager", model._meta.label, name, getattr(manager, "_db", None) or "")


def _describe_queryset(queryset: QuerySet[Any]) -> Spec:
    query = queryset.query
    label = queryset.model._meta.label
    what = f"the queryset of {label}"
    for condition, problem in (
        (query.is_sliced, "is sliced"),
        (query.combinator, "is combined with another"),
        (query.annotations, "is annotated"),
        (query.extra or query.extra_tables, "uses extra()"),
        (queryset._iterable_class is not ModelIterable, "gives no model instances"),
        (query.select_for_update, "locks rows"),
        (query.distinct_fields, "is distinct on fields"),
        (query.filter_is_sticky or query.group_by, "is grouped"),
    ):
        if condition:
            _refuse(what, problem)
    if not all(isinstance(name, str) for name in query.order_by):
        _refuse(what, "is ordered by an expression")
    prefetches = queryset._prefetch_related_lookups  # type: ignore[attr-defined]
    if not all(isinstance(lookup, str) for lookup in prefetches):
        _refuse(what, "has a Prefetch object")
    names, defer = query.deferred_loading
    spec = (
        "queryset",
        label,
        getattr(queryset, "_db", None) or "",
        tuple(_filters(query.where, what)),
        _paths(query.select_related),
        tuple(prefetches),
        (defer, tuple(sorted(names))),
        (query.default_ordering, tuple(query.order_by), query.standard_ordering),
        query.distinct,
    )
    try:
        same = _compiled(_build_queryset(spec)) == _compiled(queryset)
    except (EmptyResultSet, FieldError) as error:
        raise ConfigurationError(f"{what} cannot be built again: {error}. {_REMEDY}") from error
    if not same:
        _refuse(what, "holds more than plain filters, ordering and related loading")
    return spec


def _compiled(queryset: QuerySet[Any]) -> tuple[Any, ...]:
    compiled: tuple[Any, ...] = queryset.query.get_compiler(queryset.db).as_sql()
    return compiled


def _filters(where: WhereNode, what: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    if where.connector != AND or where.negated:
        _refuse(what, "has a filter that is no plain `and`")
    for child in where.children:
        if isinstance(child, WhereNode):
            found += _filters(child, what)
            continue
        lhs = child.lhs if isinstance(child, Lookup) else None
        if not isinstance(child, Lookup) or not isinstance(lhs, Col):
            _refuse(what, "has a filter on an expression")
        rhs = child.rhs
        if hasattr(rhs, "resolve_expression") or isinstance(rhs, QuerySet):
            _refuse(what, "has a filter by an expression or a subquery")
        value = tuple(rhs) if isinstance(rhs, list | set) else rhs
        found.append((f"{lhs.target.attname}__{child.lookup_name}", value))
    return found


def _paths(tree: Any, prefix: str = "") -> Any:
    """Return ``select_related`` as a bool or as paths."""
    if isinstance(tree, bool):
        return tree
    paths: list[str] = []
    for name, below in tree.items():
        paths += _paths(below, f"{prefix}{name}__") if below else [f"{prefix}{name}"]
    return tuple(paths)


def _build_queryset(spec: tuple[Any, ...]) -> QuerySet[Any]:
    _, label, using, filters, related, prefetches, loading, ordering, distinct = spec
    model = apps.get_model(label)
    queryset: QuerySet[Any] = QuerySet(model, using=using or None)
    for path, value in filters:
        queryset = queryset.filter(**{path: value})
    if related is True:
        queryset = queryset.select_related()
    elif related:
        queryset = queryset.select_related(*related)
    if prefetches:
        queryset = queryset.prefetch_related(*prefetches)
    defer, names = loading
    if names:
        queryset = queryset.defer(*names) if defer else queryset.only(*names)
    default, order, standard = ordering
    if order or not default:
        queryset = queryset.order_by(*order)
    if not standard:
        queryset = queryset.reverse()
    return queryset.distinct() if distinct else queryset
