"""Records as chains of versions, over nothing but ``get_many``, ``add`` and ``set``.

The versions of a record are keys with a number at their end; the highest is the record. To save is
to read the highest, compare ranks, and ``add`` the next one: who loses that reads again. So no
write of lower rank can hide one of higher rank, however long its process was held up. What was
replaced becomes an empty *stub*, so that nobody can add it again. Versions are read in *windows*,
each twice as long as the one before; the end of one says that there may be a next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Final, NamedTuple

from async_cache.results.records import Outcome, outcome_of
from async_cache.results.sealed import rank_in
from async_cache.stores.django import DjangoStore
from async_cache.stores.registry import get_store

__all__ = ["CHUNK", "NOWHERE", "Access", "Chains", "Place", "Version"]

# Keys asked for at once.
CHUNK: Final = 500
WINDOW: Final = 8
MAX_WINDOWS: Final = 20


class Access:
    """The store of a cache alias, which may be made anew when settings change.

    Args:
        alias: Name in ``CACHES``.
    """

    def __init__(self, alias: str) -> None:
        self.alias = alias

    @property
    def store(self) -> DjangoStore:
        """The store."""
        store = get_store(self.alias)
        assert isinstance(store, DjangoStore)
        return store

    def read(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return what is there; what is no bytes comes back empty."""
        wanted, store = list(names), self.store
        found: dict[str, bytes] = {}
        for at in range(0, len(wanted), CHUNK):
            for name, raw in store.get_many(wanted[at : at + CHUNK]).items():
                found[name] = raw if isinstance(raw, bytes) else b""
        return found


class Place(NamedTuple):
    """A place in a group: the generation of the label, and the number of the slot."""

    generation: str
    slot: int


NOWHERE: Final = Place("", 2**32 - 1)

_PLACE: Final = Struct(">8sI")


class Version(NamedTuple):
    """One version of a record: its number, its place in a group, its sealed bytes."""

    number: int
    place: Place
    sealed: bytes

    @property
    def rank(self) -> int:
        """The rank of the record; -1 without one."""
        return rank_in(self.sealed)

    @property
    def outcome(self) -> Outcome:
        """How the task ended."""
        return outcome_of(self.rank) if self.sealed else Outcome.NONE


_NONE: Final = Version(-1, NOWHERE, b"")


def _window(index: int) -> range:
    return range(WINDOW * (2**index - 1), WINDOW * (2 ** (index + 1) - 1))


_WINDOWS: Final = tuple(_window(index) for index in range(MAX_WINDOWS))


class Chains:
    """Reads and extends chains of versions."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def highest(self, keys: Sequence[str]) -> list[Version]:
        """Return the highest version under each key."""
        found = dict.fromkeys(keys, _NONE)
        asked = list(found)
        for window in _WINDOWS:
            values = self._access.read(f"{key}.{number}" for key in asked for number in window)
            going_on = []
            for key in asked:
                for number in reversed(window):
                    raw = values.get(f"{key}.{number}")
                    if raw is not None:
                        found[key] = _parse(number, raw)
                        break
                if f"{key}.{window[-1]}" in values:
                    going_on.append(key)
            asked = going_on
            if not asked:
                break
        return [found[key] for key in keys]

    def extend(self, key: str, before: Version, place: Place, sealed: bytes, life: float) -> bool:
        """Add the version after the one that was read; False when somebody else did."""
        packed = _PLACE.pack(bytes.fromhex(place.generation or "0" * 16), place.slot)
        return self._access.store.add(f"{key}.{before.number + 1}", packed + sealed, life)

    @staticmethod
    def stubs(key: str, replaced: Version) -> dict[str, bytes]:
        """Return what to write once a version was replaced."""
        stubs = {f"{key}.{w[-1]}": b"" for w in _WINDOWS if w[-1] < replaced.number}
        if replaced.number >= 0:
            stubs[f"{key}.{replaced.number}"] = b""
        return stubs

    @staticmethod
    def keys(key: str, highest: Version) -> list[str]:
        """Return all keys of a chain."""
        return [f"{key}.{number}" for number in range(highest.number + 1)]


def _parse(number: int, raw: bytes) -> Version:
    if len(raw) < _PLACE.size:
        return Version(number, NOWHERE, b"")
    generation, slot = _PLACE.unpack_from(raw)
    place = NOWHERE if slot == NOWHERE.slot else Place(generation.hex(), slot)
    return Version(number, place, raw[_PLACE.size :])
