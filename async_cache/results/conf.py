"""``ASYNC_CACHE["RESULTS"]``, typed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from async_cache import validators
from async_cache.sections import Section
from async_cache.validators import Refused, Validator

__all__ = ["SECTION", "ResultsSettings", "get_results_settings"]


@dataclass(frozen=True, slots=True)
class ResultsSettings:
    """The section with its defaults applied. Durations are seconds.

    Attributes:
        cache: Alias of ``CACHES`` that holds records; None is the one that holds the entries.
        persist: Whether tasks write rows too by default: False, True or ``"buffered"``.
        expires: How long a record lives in the cache after its last write.
        max_wait: Longest wait for a result, whatever the caller asks for.
        cached: What ``cached=None`` means: False, True, or seconds.
        retention: How long rows are kept, by state; ``"*"`` is for the others.
        group_cap: Most rows of one group that a purge keeps; None is no cap.
        refreshes: Most records of refreshes that are kept; 0 keeps none.
        serializer: How `async_task` writes values: ``"pickle"`` (sealed), ``"json"``, or a path.
        notify: Whether the database tells of rows that become ready: ``NOTIFY`` on PostgreSQL.
        view_permission: Who may ask the status views: a function, or a dotted path to one, that
            takes the request and the id; None permits active staff.
        track_started: Whether a worker says that a call of `async_task` has begun, one write more;
            None is what Celery's ``task_track_started`` says.
    """

    cache: str | None = None
    persist: bool | str = False
    expires: float = 86_400.0
    max_wait: float = 3_600.0
    cached: bool | float = False
    retention: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    group_cap: int | None = None
    refreshes: int = 1_000
    serializer: str = "pickle"
    notify: bool = True
    view_permission: Callable[..., bool] | str | None = None
    track_started: bool | None = None


def _persist(value: Any) -> bool | str:
    if isinstance(value, bool) or value == "buffered":
        return value  # type: ignore[no-any-return]
    raise Refused(f"{validators.shown(value)} does not fit", 'Give True, False or "buffered".')


_seconds: Final = validators.duration(positive=True)


def _cached(value: Any) -> bool | float:
    return value if isinstance(value, bool) else float(_seconds(value))


def _permission(value: Any) -> Any:
    if value is None or callable(value) or (isinstance(value, str) and "." in value):
        return value
    raise Refused(
        f"{validators.shown(value)} is not a function", 'Give one, or a path: "shop.auth.may_see".'
    )


def _retention(value: Any) -> Mapping[str, float]:
    if not isinstance(value, Mapping):
        raise Refused(f"{validators.shown(value)} is not a dict", 'Write {"SUCCESS": 86400}.')
    kept: dict[str, float] = {}
    for state, seconds in value.items():
        if not isinstance(state, str) or not state:
            raise Refused(f"{validators.shown(state)} is not a state", 'Write {"SUCCESS": 86400}.')
        kept[state] = float(_seconds(seconds))
    return MappingProxyType(kept)


_KEYS: Final[Mapping[str, Validator]] = MappingProxyType(
    {
        "CACHE": validators.text("an alias of CACHES", none=True),
        "PERSIST": _persist,
        "EXPIRES": _seconds,
        "MAX_WAIT": _seconds,
        "CACHED": _cached,
        "RETENTION": _retention,
        "GROUP_CAP": validators.integer(minimum=1, none=True),
        "REFRESHES": validators.integer(minimum=0),
        "NOTIFY": validators.boolean,
        "VIEW_PERMISSION": _permission,
        "TRACK_STARTED": validators.optional(validators.boolean),
        "SERIALIZER": validators.text("the name of a serializer or a dotted path to one"),
    }
)

SECTION: Final = Section("RESULTS", ResultsSettings, _KEYS, '{"EXPIRES": 3600}')


def get_results_settings() -> ResultsSettings:
    """Return the section in force.

    Raises:
        ConfigurationError: A key is unknown or a value is bad.
    """
    return SECTION.get()
