"""A job made ready for use: its options resolved, its store, its keys and addresses."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, cast

from django.core.cache import caches
from django.core.cache.backends.base import default_key_func

from async_cache import conf, rota, vary
from async_cache.addresses import AddressBook
from async_cache.conf import get_settings
from async_cache.context import FetchContext
from async_cache.dispatchers import get_dispatcher
from async_cache.entry import (
    MISSING,
    NEGATIVE,
    Header,
    open_entry,
)
from async_cache.exceptions import EntryRejected
from async_cache.keys import (
    Call,
    CallSignature,
    Keyspace,
    canonical,
    tag_epoch,
    tag_stamp,
)
from async_cache.messages import RefreshItem, RefreshMessage
from async_cache.policy import RefreshPolicy
from async_cache.resolution import resolve_options
from async_cache.secret_keys import get_ring
from async_cache.serializers import get_serializer, load_value
from async_cache.serializers.negatives import load_negative
from async_cache.signals import announce, entry_rejected
from async_cache.stores.base import Claim, Phase
from async_cache.stores.registry import get_async_store, get_store
from async_cache.tallies import tally_of

if TYPE_CHECKING:
    from django.dispatch import Signal

    from async_cache.addresses import Address
    from async_cache.attempts import Attempt
    from async_cache.dispatchers.base import Dispatcher
    from async_cache.stores.base import AsyncStore, Handle, Store

__all__ = ["QUEUED_GRACE", "Runtime"]

QUEUED_GRACE: Final = 10.0
"""Seconds for which a dispatched message is waited for before it is sent again."""

_CHUNK: Final = 100


class Runtime(AddressBook):
    """A job with its options resolved: made once for its constructor arguments, then shared.

    Args:
        job: An instance; those with equal constructor arguments are equivalent.
        registered: The name under which the class is registered.
        constructor: The constructor arguments.
        keywords: Options given to the constructor.
    """

    def __init__(
        self, job: Any, registered: str, constructor: Call, keywords: Mapping[str, Any]
    ) -> None:
        super().__init__()
        settings = get_settings()
        self.epoch = conf.epoch
        self.job = job
        self.job_class: type = type(job)
        self.registered = registered
        self.constructor = constructor
        self.keywords = keywords
        self.name: str = job.job_name
        self.tally = tally_of(self.name)
        options = resolve_options(job, self.name, keywords)
        self.enabled = settings.enabled
        self.alias: str = options["cache"] or settings.cache
        self.store: Store = get_store(self.alias)
        self.dispatcher_name: str = options["dispatcher"] or settings.dispatcher
        self.queue: str | None = options["queue"]
        self.task_options: Mapping[str, Any] = options["task_options"]
        self.queued_grace = QUEUED_GRACE
        self.fetch_on_miss: bool = options["fetch_on_miss"]
        self.negative: tuple[type[Exception], ...] = options["negative"]
        self.vary: tuple[str, ...] = options["vary"]
        self.version = options["version"]
        self.max_keys: int | None = options["max_keys"]
        self.keep_warm: float | None = options["keep_warm"]
        self.refresh_every: float | None = options["refresh_every"]
        self.max_lifetime = settings.max_lifetime
        self.max_value_size = settings.max_value_size
        self._ttl = options["ttl"]
        self._tags = options["tags"]
        self.serializer = get_serializer(options["serializer"])
        ttl = None if callable(self._ttl) else self._ttl
        self.policy = _policy(options, ttl, settings.max_lifetime)
        self.signature = CallSignature(self.name, job.fetch)  # bound: it may be a staticmethod
        self.asks_context = self.signature.wants_ctx
        self.fetches_async = inspect.iscoroutinefunction(job.fetch)
        self.coalesces = callable(getattr(job, "fetch_many", None))
        self.chunk = _CHUNK if self.coalesces else 1
        self.processes = job.overrides("process_result")
        self.answers_empty = job.overrides("empty")
        self.ring = get_ring()
        self._prefix = settings.key_prefix
        self.keyspace = Keyspace(self._prefix, self.name, self.version)
        self.job_stamp = self.keyspace.job_stamp()
        self.members = self.keyspace.members() if self.max_keys else None
        self._constructor_key = canonical(
            (constructor.args, dict(constructor.kwargs)), "the constructor's arguments"
        )
        cache = caches[self.alias]
        # With the alias: who can write to two caches does not move what is in one to the other.
        self._seal_prefix = f"{self.alias}:{cache.key_prefix}:{cache.version}:"
        # A key function of the project's own may depend on a tenant: keys made under it are
        # not kept for another call.
        self._keeps = cache.key_func is default_key_func
        if self.keep_warm:
            rota.add(self)

    @cached_property
    def dispatcher(self) -> Dispatcher:
        """What hands refreshes to workers."""
        return get_dispatcher(self.dispatcher_name)

    @cached_property
    def async_store(self) -> AsyncStore:
        """The store's twin for coroutines."""
        return get_async_store(self.alias)

    @cached_property
    def epoch_handle(self) -> Handle:
        """Prepared read of the stamp that moves with every invalidation of tags."""
        return self.store.prepare([self.tag_epoch])

    @cached_property
    def tag_epoch(self) -> str:
        """Key of the stamp that moves with every invalidation of tags."""
        return tag_epoch(self._prefix)

    def tag_stamp(self, tag: str) -> str:
        """Return the key of a tag's stamp."""
        return tag_stamp(self._prefix, tag)

    def tags_of(self, call: Call) -> tuple[str, ...]:
        """Return the tags that are known before the fetch."""
        tags = self._tags
        if callable(tags):
            tags = tuple(dict.fromkeys(map(str, tags(*call.args, **call.kwargs))))
        return cast("tuple[str, ...]", tags)

    def sealed_key(self, entry: str) -> str:
        """Return the name that an entry's seal is bound to: two aliases never share one."""
        if self._keeps:
            return self._seal_prefix + entry
        return f"{self.alias}:{caches[self.alias].make_key(entry)}"

    def claim(self, address: Address, token: bytes, phase: Phase) -> Claim:
        """Return the claim of a call's lease."""
        queued = phase is Phase.QUEUED
        ttl = self.policy.ttl
        life = self.max_lifetime if ttl is None else ttl + self.policy.grace
        reads = [address.entry, address.failure]
        if self.asks_context:
            reads.append(self.tag_epoch)
        return Claim(
            lease=address.lease,
            token=token,
            phase=phase,
            seconds=self.queued_grace if queued else self.policy.lease,
            trace=address.trace,
            life=min(max(life, self.policy.lease), self.max_lifetime),
            stamps=() if queued else tuple(address.stamp_names(address.static_tags)),
            stamp_life=self.max_lifetime,
            reads=tuple(reads),
            members=self.members,
            member=address.digest,
            max_members=self.max_keys or 0,
            soft_stamp=address.soft,
        )

    def message(
        self,
        items: Sequence[RefreshItem],
        context: vary.Context,
        now: float,
        expires_at: float,
    ) -> RefreshMessage:
        """Return the message that asks a worker to refresh these calls."""
        module = self.job_class.__module__
        return RefreshMessage(
            job=self.registered,
            module="" if self.registered.startswith(f"{module}.") else module,
            version=self.version,
            constructor=self.constructor,
            items=tuple(items),
            context=context,
            options=self.keywords,
            enqueued_at=now,
            expires_at=expires_at,
        )

    # --- entries --------------------------------------------------------------------------------

    def open(self, address: Address, raw: bytes) -> Header:
        """Check an entry's seal and return its header.

        Raises:
            EntryRejected: It does not open.
        """
        return open_entry(raw, address.opener)

    def load(self, header: Header, raw: bytes) -> Any:
        """Return the value of an opened entry.

        Raises:
            EntryRejected: It cannot be rebuilt here: a model was migrated, a class is gone.
        """
        return load_value(raw, header, self.max_value_size)

    def answer_of(self, header: Header, raw: bytes) -> Any:
        """Return the value of an opened entry, or the exception of a negative answer.

        Raises:
            EntryRejected: It cannot be rebuilt here.
        """
        if header.flags & NEGATIVE:
            return load_negative(raw, header, self.max_value_size)
        return self.load(header, raw)

    def reject(self, address: Address, error: EntryRejected) -> None:
        """Announce stored bytes that do not open."""
        announce(
            entry_rejected,
            sender=self.job_class,
            job=self.name,
            key=address.digest,
            reason=str(error),
        )

    def ttl_of(self, value: Any) -> float | None:
        """Return how long a value is fresh, in seconds."""
        ttl = self._ttl
        if callable(ttl):
            ttl = conf.seconds(ttl(value), f"{self.name}.ttl()")
        return cast("float | None", ttl)

    def fetch_context(self, attempt: Attempt) -> FetchContext | None:
        """Return what the fetch receives as ``ctx``; None when it does not ask for it."""
        if not self.asks_context:
            return None
        header, raw = attempt.header, attempt.raw
        if header is None or raw is None or header.flags & NEGATIVE:
            return FetchContext()

        def load() -> Any:
            try:
                return self.load(header, raw)
            except EntryRejected:
                return MISSING

        return FetchContext(load, header.etag, header.last_modified)

    def tell(self, signal: Signal, attempt: Attempt, **payload: object) -> None:
        """Announce what happened to an attempt."""
        announce(
            signal,
            sender=self.job_class,
            job=self.name,
            key=attempt.address.digest,
            **payload,
        )


def _policy(options: Mapping[str, Any], ttl: float | None, max_lifetime: float) -> RefreshPolicy:
    early, wait = options["early"], options["wait"]
    window = early.total_seconds() if hasattr(early, "total_seconds") else 0.0
    return RefreshPolicy(
        ttl=ttl,
        grace=options["grace"],
        max_stale=options["max_stale"],
        wait=options["fetch_timeout"] if wait is None else wait,
        fetch_timeout=options["fetch_timeout"],
        lease=options["lease"],
        negative_ttl=options["negative_ttl"],
        jitter=options["jitter"],
        early=0.0 if window else early,
        early_window=window,
        max_lifetime=max_lifetime,
    )
