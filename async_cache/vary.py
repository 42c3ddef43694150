"""What a fetch depends on besides its arguments: read where it is asked, active where it runs.

A job declares ``vary = ("language",)``. The value in force at the ``get`` becomes part of the key,
travels in the message, and is active again around the fetch in the worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from django.utils import timezone, translation
from django.utils.module_loading import import_string

from async_cache.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Context", "Vary", "activate", "get_vary", "read"]

Context: TypeAlias = tuple[tuple[str, str], ...]
"""The names a job varies by, each with the value in force."""


@dataclass(frozen=True, slots=True)
class Vary:
    """One thing a fetch may depend on.

    Attributes:
        read: Return the value in force, a str.
        activate: Return a context manager under which the value is in force.
    """

    read: Callable[[], str]
    activate: Callable[[str], AbstractContextManager[Any]]


@contextmanager
def _language(value: str) -> Iterator[None]:
    with translation.override(value or None):
        yield


_BUILT_IN: Final = {
    "language": Vary(lambda: translation.get_language() or "", _language),
    "timezone": Vary(timezone.get_current_timezone_name, timezone.override),
}


def get_vary(name: str) -> Vary:
    """Return what a job's ``vary`` names.

    Args:
        name: ``language``, ``timezone``, or the dotted path to a `Vary` of the project, such as
            one for the tenant.

    Raises:
        ConfigurationError: There is none of that name.
    """
    found = _BUILT_IN.get(name)
    if found is not None:
        return found
    if "." in name:
        try:
            found = import_string(name)
        except ImportError as error:
            raise ConfigurationError(f"vary: {name!r} cannot be imported: {error}.") from error
        if isinstance(found, Vary):
            return found
    known = ", ".join(sorted(_BUILT_IN))
    raise ConfigurationError(
        f"vary: {name!r} is unknown. Use {known}, or the dotted path to a Vary(read, activate)."
    )


def read(names: Iterable[str]) -> Context:
    """Return what is in force now for each name."""
    return tuple((name, str(get_vary(name).read())) for name in names)


@contextmanager
def activate(context: Context) -> Iterator[None]:
    """Put a context in force for the block."""
    with ExitStack() as stack:
        for name, value in context:
            stack.enter_context(get_vary(name).activate(value))
        yield
