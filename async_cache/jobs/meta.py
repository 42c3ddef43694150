"""How a job class is made: registered by name, its constructor arguments captured."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping
from typing import Any, Final

from async_cache import conf
from async_cache.canonical import canonical
from async_cache.exceptions import ConfigurationError
from async_cache.jobs import registry
from async_cache.keys import Call, CallSignature
from async_cache.options import DEFAULTS
from async_cache.targets import Runtime
from async_cache.validators import suggest

__all__ = ["JobType"]

MAX_RUNTIMES: Final = 256
"""Sets of constructor arguments that a class keeps ready; past it the oldest is dropped."""

_DERIVED_FROM: Final = frozenset(DEFAULTS) | {"empty", "fetch", "fetch_many", "process_result"}

_lock = threading.Lock()


class JobType(type):
    """Metaclass of jobs.

    It takes the options out of a constructor call before ``__init__`` sees them, and keeps the
    rest: the constructor's arguments are part of every key of the job.
    """

    registered_name: str
    _options: frozenset[str]
    _parameters: frozenset[str] | None
    _runtimes: dict[Any, Runtime]

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> None:
        super().__init__(name, bases, namespace)
        declared = namespace.get("name")
        path = f"{cls.__module__}.{cls.__qualname__}"
        cls.registered_name = declared if isinstance(declared, str) else path
        parameters = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
        cls._options = frozenset(option for option in DEFAULTS if option not in parameters)
        own = cls.__init__ is not object.__init__  # type: ignore[misc]
        kinds = {parameter.kind for parameter in parameters.values()}
        cls._parameters = (
            None
            if own and inspect.Parameter.VAR_KEYWORD in kinds
            else frozenset(list(parameters)[1:] if own else ())
        )
        cls._runtimes = {}
        of_a_job = any(isinstance(base, JobType) for base in bases)
        if of_a_job and not namespace.get("abstract", False):
            registry.register(cls.registered_name, cls)  # type: ignore[arg-type]

    def __setattr__(cls, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name in _DERIVED_FROM:
            conf.reset()  # what was derived from the old one is made again

    def __delattr__(cls, name: str) -> None:
        super().__delattr__(name)
        if name in _DERIVED_FROM:
            conf.reset()

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make an instance and keep what it was made with.

        Raises:
            ConfigurationError: A keyword is neither an option nor a parameter of ``__init__``.
        """
        options = {name: kwargs.pop(name) for name in cls._options if name in kwargs}
        if kwargs and cls._parameters is not None:
            for name in kwargs:
                if name not in cls._parameters:
                    raise ConfigurationError(
                        f"{cls.registered_name}: unknown option {name!r}. "
                        f"{suggest(name, cls._options | cls._parameters)}"
                    )
        job = super().__call__(*args, **kwargs)
        made = cls.portable_constructor(args, kwargs) if args or kwargs else (args, kwargs)
        job._made_with = (*made, options)
        return job

    def portable_constructor(
        cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """Return the constructor's arguments in the form that is part of keys and messages."""
        return args, kwargs

    def runtime_for(cls, job: Any) -> Runtime:
        """Return the shared runtime of an instance."""
        args, kwargs, options = job._made_with
        key = _cache_key(args, kwargs, options)
        runtime = cls._runtimes.get(key) if key is not None else None
        if runtime is None or runtime.epoch != conf.epoch:
            runtime = Runtime(job, cls.registered_name, cls.bind_constructor(args, kwargs), options)
            if key is not None:
                with _lock:
                    if len(cls._runtimes) >= MAX_RUNTIMES:
                        del cls._runtimes[next(iter(cls._runtimes))]
                    cls._runtimes[key] = runtime
        return runtime

    def bind_constructor(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        """Return the one form of the constructor's arguments, defaults applied."""
        if not args and not kwargs and cls.__init__ is object.__init__:  # type: ignore[misc]
            return Call()
        signature = CallSignature(cls.registered_name, cls.__init__, method=True)  # type: ignore[misc]
        return signature.bind(args, kwargs)


def _cache_key(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Mapping[str, Any]
) -> Any | None:
    if not args and not kwargs and not options:
        return ()
    made = (
        args
        if all(isinstance(value, type) for value in args)
        else canonical(args, "the constructor's arguments")
    )
    named = canonical(dict(kwargs), "the constructor's arguments") if kwargs else b""
    try:
        chosen = tuple(sorted(options.items()))
        hash(chosen)
    except TypeError:
        return None  # an option without a hash: this instance gets a runtime of its own
    return made, named, tuple((name, type(value), value) for name, value in chosen)
