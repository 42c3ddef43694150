"""What a ``fetch`` that asks for ``ctx`` receives."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, Final

from async_cache.entry import MISSING
from async_cache.options import seconds

__all__ = ["NOT_MODIFIED", "FetchContext", "NotModified"]


def checked_tag(tag: object) -> str:
    """Return a tag's name; anything but a non-empty str is refused."""
    if not isinstance(tag, str) or not tag:
        raise TypeError(f"A tag is a non-empty str, not a {type(tag).__qualname__}.")
    return str(tag)


class NotModified:
    """The type of `NOT_MODIFIED`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "NOT_MODIFIED"


NOT_MODIFIED: Final = NotModified()
"""Returned by a ``fetch``: the source says that the stale value still holds."""


class FetchContext:
    """What is known of the entry that a fetch replaces, and what the fetch decides of the new one.

    A ``fetch`` with a keyword-only parameter ``ctx`` receives it::

        def fetch(self, url, *, ctx):
            response = requests.get(url, headers={"If-None-Match": ctx.etag or ""}, timeout=5)
            if response.status_code == 304:
                return NOT_MODIFIED
            ctx.etag = response.headers.get("ETag")
            return response.json()

    Attributes:
        etag: The entity tag stored with the stale value; set it for the new one.
        last_modified: The same for the date of the last change, as the source wrote it.
    """

    __slots__ = ("_load", "_stale", "_tags", "_ttl", "etag", "last_modified", "stored")

    def __init__(
        self,
        load: Callable[[], Any] | None = None,
        etag: str | None = None,
        last_modified: str | None = None,
    ) -> None:
        self._load = load
        self._stale: Any = MISSING
        self._tags: dict[str, None] = {}
        self._ttl: float | str | None = "unset"
        self.etag = etag
        self.last_modified = last_modified
        self.stored = True

    @property
    def stale(self) -> Any:
        """The value being replaced, or `MISSING`."""
        if self._load is not None:
            load, self._load = self._load, None
            self._stale = load()
        return self._stale

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags added by this fetch."""
        return tuple(self._tags)

    def add_tags(self, *tags: str) -> None:
        """Tag the new value with what was found in it.

        Args:
            *tags: Names; ``invalidate_tags`` with one of them makes the value stale.
        """
        for tag in tags:
            self._tags[checked_tag(tag)] = None

    def set_ttl(self, ttl: float | timedelta | None) -> None:
        """Set how long the new value is fresh, in seconds; it wins over the job's ``ttl``."""
        self._ttl = seconds(ttl, "ctx.set_ttl()")

    def ttl_or(self, default: float | None) -> float | None:
        """Return the ttl that the fetch set, else ``default``."""
        return default if isinstance(self._ttl, str) else self._ttl

    def do_not_store(self) -> None:
        """Hand the new value to whoever waits for it, but store nothing."""
        self.stored = False


def extend_tags(static: Iterable[str], context: FetchContext | None) -> tuple[str, ...]:
    """Return the declared tags and those of the fetch, each once, in order."""
    names = dict.fromkeys(static)
    if context is not None:
        names.update(dict.fromkeys(context.tags))
    return tuple(names)
