# ruff: noqa: D102  (the contract, in base.py, documents the operations)
"""Any store for coroutines: each operation takes one hop to a thread."""

from __future__ import annotations

from collections.abc import Sequence

from asgiref.sync import sync_to_async

from async_cache.stores.base import (
    AsyncStore,
    Claim,
    Claimed,
    Commit,
    Handle,
    Lease,
    Outcome,
    Store,
)
from async_cache.stores.django import DatabaseStore

__all__ = ["ThreadedStore"]


class ThreadedStore(AsyncStore):
    """The twin of a synchronous store.

    Args:
        store: The synchronous store of the same alias.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.alias = store.alias
        self.level = store.level
        self.shares = store.shares
        self.elects = store.elects
        # Database connections must stay in the thread whose requests Django closes them after.
        self._sensitive = isinstance(store, DatabaseStore)

    def prepare(self, names: Sequence[str]) -> Handle:
        return self.store.prepare(names)

    async def read(self, handle: Handle) -> list[bytes | None]:
        return await sync_to_async(self.store.read, thread_sensitive=self._sensitive)(handle)

    async def read_many(self, handles: Sequence[Handle]) -> list[list[bytes | None]]:
        work = sync_to_async(self.store.read_many, thread_sensitive=self._sensitive)
        return await work(handles)

    async def claim(self, claims: Sequence[Claim]) -> list[Claimed]:
        return await sync_to_async(self.store.claim, thread_sensitive=self._sensitive)(claims)

    async def commit(self, commits: Sequence[Commit]) -> list[Outcome]:
        return await sync_to_async(self.store.commit, thread_sensitive=self._sensitive)(commits)

    async def renew(self, leases: Sequence[tuple[str, bytes, float]]) -> list[bool]:
        return await sync_to_async(self.store.renew, thread_sensitive=self._sensitive)(leases)

    async def release(self, leases: Sequence[tuple[str, bytes, str]]) -> None:
        await sync_to_async(self.store.release, thread_sensitive=self._sensitive)(leases)

    async def holders(self, leases: Sequence[str]) -> list[Lease | None]:
        return await sync_to_async(self.store.holders, thread_sensitive=self._sensitive)(leases)

    async def put(self, items: Sequence[tuple[str, bytes, float]]) -> None:
        await sync_to_async(self.store.put, thread_sensitive=self._sensitive)(items)

    async def remove(self, names: Sequence[str]) -> None:
        await sync_to_async(self.store.remove, thread_sensitive=self._sensitive)(names)

    def close(self) -> None:
        self.store.close()
