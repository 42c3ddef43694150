"""Subcommands of ``manage.py async_cache``: the contract and the registry.

An app adds its own in ``AppConfig.ready``::

    register_subcommand(Purge())
"""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from django.core.management.base import BaseCommand

from async_cache.exceptions import ConfigurationError

__all__ = ["Subcommand", "register_subcommand", "subcommands"]


class Subcommand(ABC):
    """One word after ``manage.py async_cache``.

    Attributes:
        name: The word.
        help: One line that says what it does.
    """

    name: ClassVar[str]
    help: ClassVar[str]

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:  # noqa: B027 - optional
        """Declare the arguments that follow the word."""

    @abstractmethod
    def run(self, command: BaseCommand, options: Mapping[str, Any]) -> None:
        """Do it, and write to ``command.stdout``.

        Raises:
            AsyncCacheError: It cannot be done; the message reaches the user without a traceback.
            CommandError: The same.
        """


_registry: dict[str, Subcommand] = {}


def register_subcommand(subcommand: Subcommand) -> None:
    """Add a subcommand.

    Raises:
        ConfigurationError: Another class has taken the name.
    """
    known = _registry.setdefault(subcommand.name, subcommand)
    if type(known) is not type(subcommand):
        raise ConfigurationError(
            f"Two subcommands of `manage.py async_cache` are named {subcommand.name!r}: "
            f"{type(known).__qualname__} and {type(subcommand).__qualname__}. Rename one."
        )


def subcommands() -> Mapping[str, Subcommand]:
    """Return the registered subcommands by name."""
    return MappingProxyType(_registry)
