# ruff: noqa: D102  (the contract, in base.py, documents the operations)
"""Plain reads and writes over what any cache has: get, set, add, touch, delete."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence

from async_cache.leases import Lease, decode_lease
from async_cache.stores.base import Handle, Store

__all__ = ["PrimitiveStore", "queue_of"]


def queue_of(lease: str) -> str:
    """Return the key under which a lease is held while its message waits."""
    return lease + ".q"


class PrimitiveStore(Store):
    """A store made of five primitives, without election and commit."""

    # The primitives.

    @abstractmethod
    def get_many(self, names: Sequence[str]) -> dict[str, object]:
        """Return what is there, read in this order."""

    @abstractmethod
    def set(self, name: str, value: bytes, seconds: float) -> None:
        """Write blind."""

    @abstractmethod
    def add(self, name: str, value: bytes, seconds: float) -> bool:
        """Write when nothing is there; atomic where `elects` is true."""

    @abstractmethod
    def touch(self, name: str, seconds: float) -> bool:
        """Give a key a new timeout; False when it is gone."""

    @abstractmethod
    def delete_many(self, names: Sequence[str]) -> None:
        """Delete, there or not."""

    def set_many(self, values: dict[str, bytes], seconds: float) -> None:
        """Write several blind, in any order."""
        for name, value in values.items():
            self.set(name, value, seconds)

    # Reads.

    def prepare(self, names: Sequence[str]) -> Handle:
        return tuple(names)

    def read(self, handle: Handle) -> list[bytes | None]:
        found = self.get_many(handle)
        return [self.as_bytes(found.get(name)) for name in handle]

    def read_many(self, handles: Sequence[Handle]) -> list[list[bytes | None]]:
        found = self.get_many(tuple(dict.fromkeys(name for names in handles for name in names)))
        return [[self.as_bytes(found.get(name)) for name in names] for names in handles]

    @staticmethod
    def as_bytes(raw: object) -> bytes | None:
        """Return a value that a read may return."""
        # What somebody else stored under our key must not pass for a plain miss.
        return raw if raw is None or isinstance(raw, bytes) else b""

    def holders(self, leases: Sequence[str]) -> list[Lease | None]:
        found = self.look((name, queue_of(name)) for name in leases)
        return [self.holder_in(found, name) for name in leases]

    @staticmethod
    def holder_in(found: dict[str, object], lease: str) -> Lease | None:
        """Return who holds a lease, by what was found under its two keys."""
        return decode_lease(found.get(lease)) or decode_lease(found.get(queue_of(lease)))

    def look(self, groups: Iterable[Iterable[str]]) -> dict[str, object]:
        """Read names once each, in this order; None for what is not there."""
        found: dict[str, object] = dict.fromkeys(name for group in groups for name in group)
        return found | self.get_many(tuple(found)) if found else found

    # Writes.

    def put(self, items: Sequence[tuple[str, bytes, float]]) -> None:
        for name, value, seconds in items:
            self.set(name, value, seconds)

    def remove(self, names: Sequence[str]) -> None:
        if names:
            self.delete_many(names)
