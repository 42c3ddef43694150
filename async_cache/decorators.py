"""Cache a function: the decorator makes a job of it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, Generic, ParamSpec, TypeVar, cast, overload

from async_cache.exceptions import ConfigurationError
from async_cache.jobs.base import AsyncCacheJob
from async_cache.jobs.meta import JobType
from async_cache.options import clean_options

__all__ = ["CachedFunction", "cached"]

P = ParamSpec("P")
R = TypeVar("R")

_VERBS: Final = frozenset(
    {"delete", "explain", "get", "invalidate", "peek", "refresh", "refresh_later", "set"}
)
_WITH_TWINS: Final = _VERBS | {f"a{verb}" for verb in _VERBS}
_WHOLE_JOB: Final = frozenset(
    {"aclear", "aget_many", "arefresh_many", "clear", "get_many", "refresh_many"}
)


class CachedFunction(Generic[P, R]):
    """A function whose results are cached. Calling it is `AsyncCacheJob.get`.

    Its job's verbs are attributes that take the function's arguments: ``f.invalidate(x)``,
    ``f.peek(x)``, ``f.set(value, x)``, ``f.refresh(x)``, each with its async twin. Where the
    function is a coroutine function, calling it and ``refresh`` are awaited.

    Attributes:
        job: The job behind it.
    """

    def __init__(
        self, function: Callable[P, R], options: dict[str, Any], *, of_class: bool = False
    ) -> None:
        functools.update_wrapper(self, function)
        self._of_class = of_class
        self.job: AsyncCacheJob[Any] = _make_job(function, options)
        self._awaited = inspect.iscoroutinefunction(function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the cached result; see `AsyncCacheJob.get`."""
        get = self.job.aget if self._awaited else self.job.get
        return cast("R", get(*args, **kwargs))

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Bind to an instance, or a class, which becomes the first argument and part of the key."""
        if self._of_class:
            return _Bound(self, type(instance) if owner is None else owner)
        return self if instance is None else _Bound(self, instance)

    def __reduce__(self) -> str:
        """Pickle and copy by name, as a plain function does."""
        return self.__qualname__  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        if name in _WITH_TWINS or name in _WHOLE_JOB:
            if self._awaited and name == "refresh":
                name = "arefresh"
            return getattr(self.job, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


class _Bound:
    """A cached method with its instance."""

    __slots__ = ("_cached", "_instance")

    def __init__(self, cached_function: CachedFunction[Any, Any], instance: object) -> None:
        self._cached = cached_function
        self._instance = instance

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._cached(self._instance, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._cached, name)
        if name not in _WITH_TWINS:
            return attribute
        if name in ("set", "aset"):
            return lambda value, /, *args, **kwargs: attribute(
                value, self._instance, *args, **kwargs
            )
        return functools.partial(attribute, self._instance)


def _make_job(function: Callable[..., Any], options: dict[str, Any]) -> AsyncCacheJob[Any]:
    name = f"{function.__module__}.{function.__qualname__}"
    parameters = list(inspect.signature(function).parameters.values())
    ours = inspect.Parameter("_job", inspect.Parameter.POSITIONAL_ONLY)

    if inspect.iscoroutinefunction(function):

        async def afetch(_job: Any, /, *args: Any, **kwargs: Any) -> Any:
            return await function(*args, **kwargs)

        fetch: Any = afetch
    else:

        def plain(_job: Any, /, *args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        fetch = plain
    # What the verbs accept is what the function accepts.
    fetch.__signature__ = inspect.Signature([ours, *parameters])
    fetch.__name__ = function.__name__
    chosen = {name: staticmethod(v) if inspect.isfunction(v) else v for name, v in options.items()}
    namespace = {
        "__module__": function.__module__,
        "__qualname__": function.__qualname__,
        "__doc__": function.__doc__,
        "name": name,
        "fetch": fetch,
        **chosen,
    }
    kind = JobType(function.__name__, (AsyncCacheJob,), namespace)
    job: AsyncCacheJob[Any] = kind()
    return job


@overload
def cached(function: Callable[P, R], /) -> CachedFunction[P, R]: ...
@overload
def cached(
    *, ttl: float | timedelta | Callable[[Any], Any] | None = ..., **options: Any
) -> Callable[[Callable[P, R]], CachedFunction[P, R]]: ...
def cached(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Cache a function, a coroutine function or a method.

    ::

        @cached(ttl=60)
        def exchange_rates(base): ...

        exchange_rates("EUR")
        exchange_rates.invalidate("EUR")

    On a method, ``self`` is an argument like the others: a model instance, or an object with a
    ``__cache_key__`` method. ``@classmethod`` goes below ``@cached``: the class, a model, is an
    argument too. The worker finds the function by its dotted path, so it must be one that can be
    imported: not a lambda, not local to another function.

    Args:
        function: What is decorated, where the decorator is used without options.
        **options: Options of the job, as for `AsyncCacheJob`. ``ttl`` may be a function of the
            value, ``tags`` one of the arguments.

    Raises:
        ConfigurationError: An option is unknown or bad, or this is no function.
    """
    if function is not None:
        return _decorate(function, options)
    return lambda target: _decorate(target, options)


def _decorate(function: Any, options: dict[str, Any]) -> CachedFunction[Any, Any]:
    of_class = isinstance(function, classmethod)
    if of_class:
        function = function.__func__
    if not inspect.isfunction(function):
        raise ConfigurationError(
            f"@cached takes a function, not a {type(function).__qualname__}. "
            "Put it directly above the def, below @staticmethod; above @classmethod."
        )
    name = f"{function.__module__}.{function.__qualname__}"
    clean_options(name, {k: v for k, v in options.items() if not inspect.isfunction(v)})
    return CachedFunction(function, options, of_class=of_class)
