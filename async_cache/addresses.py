"""Where one call of a job lives: its keys, and what is prepared to read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from async_cache import vary
from async_cache.keyring import Opener
from async_cache.keys import Call, CallSignature, call_digest, canonical, detached
from async_cache.vary import Context

if TYPE_CHECKING:
    from async_cache.entry import Header
    from async_cache.stores.base import Handle
    from async_cache.targets import Runtime

__all__ = ["MAX_ADDRESSES", "Address", "AddressBook"]

MAX_ADDRESSES: Final = 4096
"""Addresses that a job keeps ready in each process; past it the older half is dropped."""

_SIMPLE: Final = frozenset({str, int})


class Address:
    """Where one call of a job lives: its keys and what is prepared to read them.

    Attributes:
        call: The bound arguments.
        digest: What names the call within the job.
        context: What the job varies by, as it was at the ``get``.
        entry, lease, trace, failure, hard, soft: Cache keys.
        place: Alias and key of the entry, as the alias's key function makes it, tenant included.
        static_tags: Tags known before the fetch.
        tags: Tags of the entry last seen; they may include some that the fetch decided.
        meta: The part of that entry's header that names them, so that a hit need not decode it.
        handle: Prepared read of the entry, its stamps and its tags' stamps.
        opener: Opens the entry's seal.
        read_at: When it was last read here, of a job that keeps what is read warm; else 0.
        seen: Header of the entry that was found then.
    """

    __slots__ = (
        "_runtime",
        "call",
        "context",
        "digest",
        "entry",
        "failure",
        "handle",
        "hard",
        "lease",
        "meta",
        "opener",
        "place",
        "read_at",
        "seen",
        "soft",
        "static_tags",
        "tags",
        "trace",
    )

    def __init__(self, runtime: Runtime, call: Call, digest: str, context: vary.Context) -> None:
        keys = runtime.keyspace
        self._runtime = runtime
        self.call = detached(call)
        self.digest = digest
        self.context = context
        self.entry = keys.entry(digest)
        self.lease = keys.lease(digest)
        self.trace = keys.trace(digest)
        self.failure = keys.failure(digest)
        self.hard = keys.hard_stamp(digest)
        self.soft = keys.soft_stamp(digest)
        self.static_tags = runtime.tags_of(call)
        self.place = runtime.sealed_key(self.entry)
        self.opener: Opener = runtime.ring.opener(self.place)
        self.tags: tuple[str, ...] = ()
        self.handle: Handle = None
        self.read_at = 0.0
        self.seen: Header | None = None
        self.learn(self.static_tags)

    def learn(self, tags: tuple[str, ...], meta: bytes = b"") -> None:
        """Remember the tags whose stamps the next read must bring, and the bytes that name them."""
        self.meta = meta
        if self.handle is None or tags != self.tags:
            self.handle = self._runtime.store.prepare([self.entry, *self.stamp_names(tags)])
            self.tags = tags

    def stamp_names(self, tags: Sequence[str]) -> list[str]:
        """Return the keys of the stamps that an entry with these tags records, in its order."""
        runtime = self._runtime
        return [runtime.job_stamp, self.hard, self.soft, *map(runtime.tag_stamp, tags)]

    @property
    def hard_stamps(self) -> tuple[str, str]:
        """The stamps that delete: the job's and the key's."""
        return self._runtime.job_stamp, self.hard

    @property
    def scopes(self) -> list[str]:
        """Every stamp that an invalidation of this call may renew."""
        return self.stamp_names(self.tags)


class AddressBook:
    """The addresses of one job, kept ready; `targets.Runtime` is one.

    Attributes:
        name: The job's name.
        signature: What binds the arguments of a call.
        vary: What else the key of a call depends on.
    """

    name: str
    signature: CallSignature
    vary: tuple[str, ...]
    _constructor_key: bytes
    _keeps: bool

    def __init__(self) -> None:
        self._addresses: dict[Any, Address] = {}
        self._by_digest: dict[str, Address] = {}

    def address(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Address:
        """Return the address of a call.

        Raises:
            TypeError: The arguments do not fit ``fetch``.
            UnkeyableArgument: An argument has no canonical form.
        """
        context = vary.read(self.vary) if self.vary else ()
        # Only top-level str and int are looked up by value: their equality implies one key.
        simple = self._keeps
        for value in args:
            if type(value) not in _SIMPLE:
                simple = False
                break
        key: Any = None
        if simple:
            if kwargs:
                for value in kwargs.values():
                    if type(value) not in _SIMPLE:
                        simple = False
                        break
                key = (args, *kwargs.items(), context)
            else:
                key = (args, context) if context else args
            if simple:
                address = self._addresses.get(key)
                if address is not None:
                    return address
        address = self.address_of(self.signature.bind(args, kwargs), context)
        if simple:
            _bounded(self._addresses)[key] = address
        return address

    def address_of(self, call: Call, context: Context) -> Address:
        """Return the address of a bound call under a context."""
        encoded = self.signature.encode(call)
        varied = canonical(context) if context else b""
        digest = call_digest(self.name, self._constructor_key, encoded, varied)
        address = self._by_digest.get(digest)
        if address is None:
            address = Address(cast("Runtime", self), call, digest, context)
            if self._keeps:
                _bounded(self._by_digest)[digest] = address
        return address

    def known(self, digest: str) -> Address | None:
        """Return the address of a digest, where this process has lately met it."""
        return self._by_digest.get(digest)

    def read_since(self, moment: float) -> list[Address]:
        """Return the addresses that were read here since then, of a job that keeps them warm."""
        # A map that was full has dropped addresses that the other still hands out.
        kept = [*self._by_digest.values(), *self._addresses.values()]
        read = {id(one): one for one in kept if one.read_at >= moment}
        return list(read.values())


def _bounded(kept: dict[Any, Address]) -> dict[Any, Address]:
    """Make room in a full map by dropping the older half."""
    if len(kept) >= MAX_ADDRESSES:
        for key in list(kept)[: MAX_ADDRESSES // 2]:
            kept.pop(key, None)
    return kept
