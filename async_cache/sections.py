"""The part of ``ASYNC_CACHE`` that an app beside the core has for itself, typed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from async_cache import conf, validators
from async_cache.exceptions import ConfigurationError
from async_cache.options import Problem
from async_cache.validators import Refused, Validator, suggest

__all__ = ["Section"]

S = TypeVar("S")


class Section(Generic[S]):
    """A section of the settings: a dict whose keys have validators, read on access.

    Args:
        name: Its key in ``ASYNC_CACHE``, in capitals.
        kind: The data class of its values; its fields are the keys, in small letters.
        keys: The validator of each key.
        example: What the section may look like, for errors.
    """

    def __init__(
        self, name: str, kind: type[S], keys: Mapping[str, Validator], example: str
    ) -> None:
        self.name = name
        self._kind = kind
        self._keys = keys
        self._example = example
        self._where = f'{conf.SETTING}["{name}"]'
        self._current: tuple[int, S] | None = None

    def register(self) -> None:
        """Let ``ASYNC_CACHE`` have the section: its app is installed."""
        conf.register_section(self.name, self._keys)

    def get(self) -> S:
        """Return the section in force.

        Raises:
            ConfigurationError: A key is unknown or a value is bad.
        """
        kept = self._current
        if kept is None or kept[0] != conf.epoch:
            seen = conf.epoch
            built, problems = self._inspect(conf.get_settings().sections)
            if problems:
                raise ConfigurationError(str(problems[0]))
            kept = self._current = seen, built
        return kept[1]

    def find_problems(self) -> list[Problem]:
        """Return all that is wrong with the section."""
        return self._inspect(conf.current_or_partial().sections)[1]

    def current_or_partial(self) -> S:
        """Return the section, with defaults in place of what is wrong."""
        return self._inspect(conf.current_or_partial().sections)[0]

    def _inspect(self, sections: Mapping[str, Any]) -> tuple[S, list[Problem]]:
        raw = sections.get(self.name, {})
        if not isinstance(raw, Mapping):
            message = f"a {type(raw).__qualname__} is not a dict"
            hint = f"Write {self._example}."
            return self._kind(), [Problem("type", self._where, message, hint)]
        fields: dict[str, Any] = {}
        problems: list[Problem] = []
        for key, value in raw.items():
            validator = self._keys.get(key) if isinstance(key, str) else None
            if validator is None:
                message = f"unknown key {validators.shown(key)}"
                hint = suggest(key, self._keys)
                problems.append(Problem("unknown_key", self._where, message, hint))
                continue
            try:
                fields[key.lower()] = validator(value)
            except Refused as refused:
                where = f'{self._where}["{key}"]'
                problems.append(Problem("value", where, refused.reason, refused.remedy))
        return self._kind(**fields), problems
