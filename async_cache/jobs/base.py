"""The class that users subclass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

from asgiref.sync import sync_to_async

from async_cache import areading, cold, conf, many, publisher, reading
from async_cache.attempts import NO_ENTRY, new_token
from async_cache.dispatchers.base import RefreshRequest
from async_cache.effects import arun, run
from async_cache.entry import Missing, Status, open_entry
from async_cache.exceptions import EntryRejected
from async_cache.jobs import changes
from async_cache.jobs.answers import Explanation, RefreshHandle, explain
from async_cache.jobs.meta import JobType
from async_cache.keys import Call
from async_cache.leases import task_id

if TYPE_CHECKING:
    from async_cache.addresses import Address
    from async_cache.targets import Runtime

__all__ = ["AsyncCacheJob"]

V = TypeVar("V")

CallLike = Call | tuple[Any, ...] | Mapping[str, Any]
"""A call for `get_many`: ``call(...)``, a tuple of arguments or a dict of keywords."""


class AsyncCacheJob(Generic[V], metaclass=JobType):
    """A value that is slow to fetch, answered from the cache at once and refreshed by a worker.

    Subclass it, write ``fetch`` and set ``ttl``::

        class UserTweets(AsyncCacheJob):
            ttl = 60

            def fetch(self, username):
                return requests.get(url(username), timeout=5).json()

        UserTweets().get("bob")

    The verbs are those of an instance, ``UserTweets().get`` and not ``UserTweets.get``, and take
    exactly the arguments of ``fetch``. Each has an async twin, ``a`` in front.
    Constructor arguments, if there are any, are part of the key; options given to the constructor
    (``UserTweets(ttl=5)``) are not.

    Attributes:
        name: What settings, keys and messages call the job; by default ``module.QualName``. Set it
            to keep entries across a rename.
    """

    name: ClassVar[str | None] = None

    _made_with: tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]
    _kept: Runtime | None = None

    if TYPE_CHECKING:

        def __init__(self, **options: Any) -> None:
            """Options are taken out of every constructor call before ``__init__`` sees it."""

    # --- what a subclass writes -----------------------------------------------------------------

    def fetch(self, *args: Any, **kwargs: Any) -> Any:
        """Fetch the value: the slow part, run by a worker. May be ``async def``.

        With a keyword-only parameter ``ctx`` it receives a `FetchContext`.
        """
        raise NotImplementedError(f"{type(self).__qualname__} has no fetch(). Write one.")

    def empty(self, *args: Any, **kwargs: Any) -> Any:
        """Return what stands for a value that is not there.

        Called on a miss when ``fetch_on_miss`` is off. A job that overrides it is also answered
        with it where the fetch failed or none can be had.
        """
        return None

    def process_result(self, value: V, call: Call, status: Status) -> Any:
        """Turn the stored value into what `get` returns.

        Args:
            value: What ``fetch`` returned.
            call: The arguments.
            status: Whether it is fresh or stale.
        """
        return value

    # --- reading --------------------------------------------------------------------------------

    def get(self, *args: Any, **kwargs: Any) -> V:
        """Return the value: from the cache at once if there is one, fresh or stale.

        A stale value starts a refresh behind the request. Without a value, one caller fetches and
        the others wait for it.

        Raises:
            FetchUnavailable: There is no value, and none can be had now.
            UnkeyableArgument: An argument has no canonical form.
            Exception: What ``fetch`` raised, for the caller whose fetch it was.
        """
        value: V = reading.get(self._runtime, args, kwargs)
        return value

    async def aget(self, *args: Any, **kwargs: Any) -> V:
        """Do what `get` does without blocking the event loop."""
        return cast("V", await areading.aget(self._runtime, args, kwargs))

    def get_many(self, calls: Iterable[CallLike]) -> list[V | Exception]:
        """Return the values of several calls in one round trip.

        Args:
            calls: ``call(...)``, tuples of arguments or dicts of keywords.

        Returns:
            The values in order; for a call that failed, the exception in its place.
        """
        return many.get_many(self._runtime, self._calls(calls))

    async def aget_many(self, calls: Iterable[CallLike]) -> list[V | Exception]:
        """Do what `get_many` does without blocking the event loop."""
        return await areading.aget_many(self._runtime, self._calls(calls))

    def peek(self, *args: Any, **kwargs: Any) -> V | Missing:
        """Return the stored value, fresh or stale, or `MISSING`; fetch and refresh nothing."""
        return cast("V | Missing", reading.peek(*self._target(args, kwargs)))

    async def apeek(self, *args: Any, **kwargs: Any) -> V | Missing:
        """Do what `peek` does without blocking the event loop."""
        return cast("V | Missing", await self._hop(self.peek, *args, **kwargs))

    def explain(self, *args: Any, **kwargs: Any) -> Explanation:
        """Return the state of a call: status and why, age, who refreshes it, the last error.

        Raises:
            StoreUnavailable: The cache does not answer.
        """
        return run(explain(*self._target(args, kwargs)))

    async def aexplain(self, *args: Any, **kwargs: Any) -> Explanation:
        """Do what `explain` does without blocking the event loop."""
        return await arun(explain(*self._target(args, kwargs)))

    # --- refreshing -----------------------------------------------------------------------------

    def refresh(self, *args: Any, **kwargs: Any) -> V:
        """Fetch now, in this thread, store the value and return it.

        Raises:
            FetchUnavailable: Another's fetch of the same call did not end within ``wait``.
            Exception: What ``fetch`` raised; the stored value stays.
        """
        return cast("V", cold.refresh(*self._target(args, kwargs)))

    async def arefresh(self, *args: Any, **kwargs: Any) -> V:
        """Do what `refresh` does without blocking the event loop."""
        return cast("V", await cold.arefresh(*self._target(args, kwargs)))

    def refresh_later(self, *args: Any, **kwargs: Any) -> RefreshHandle:
        """Hand a refresh of this call to a worker, in a message of its own.

        Raises:
            DispatchFailed: The dispatcher did not take it within ``PUBLISH_TIMEOUT``.
            StoreUnavailable: The cache does not answer.
        """
        runtime, address = self._target(args, kwargs)
        token = new_token()
        replaces = self._entry_id(address, runtime.store.read(address.handle)[0])
        won, holder = publisher.publish_now(RefreshRequest(runtime, address, replaces), token)
        running = token if won or not holder else holder
        return RefreshHandle(
            task_id=task_id(running),
            coalesced=not won,
            _runtime=runtime,
            _address=address,
            _replaces=replaces,
        )

    async def arefresh_later(self, *args: Any, **kwargs: Any) -> RefreshHandle:
        """Do what `refresh_later` does without blocking the event loop."""
        return cast("RefreshHandle", await self._hop(self.refresh_later, *args, **kwargs))

    def refresh_many(self, calls: Iterable[CallLike]) -> int:
        """Hand refreshes of several calls to workers, in few messages where the job allows it.

        Args:
            calls: As for `get_many`.

        Returns:
            How many are on their way; the others did not fit into the queue.
        """
        runtime = self._runtime
        addresses = [runtime.address(args, kwargs) for args, kwargs in self._calls(calls)]
        if not addresses:
            return 0
        found = runtime.store.read_many([address.handle for address in addresses])
        return publisher.submit_many(
            [
                RefreshRequest(runtime, address, self._entry_id(address, raws[0]))
                for address, raws in zip(addresses, found, strict=True)
            ]
        )

    async def arefresh_many(self, calls: Iterable[CallLike]) -> int:
        """Do what `refresh_many` does without blocking the event loop."""
        return cast("int", await self._hop(self.refresh_many, list(calls)))

    # --- writing --------------------------------------------------------------------------------

    def set(self, value: V, /, *args: Any, **kwargs: Any) -> None:
        """Store a value that the caller has; a refresh that began before cannot overwrite it.

        In a transaction it is stored on commit; until then only this transaction reads it.

        Raises:
            UnstorableValue: It cannot be stored.
            StoreUnavailable: The cache does not answer.
        """
        changes.set_value(*self._target(args, kwargs), value)

    async def aset(self, value: V, /, *args: Any, **kwargs: Any) -> None:
        """Do what `set` does without blocking the event loop."""
        await self._hop(self.set, value, *args, **kwargs)

    def invalidate(self, *args: Any, **kwargs: Any) -> None:
        """Make the value stale: still served, refreshed by the next read. On commit, in one.

        Raises:
            StoreUnavailable: The cache did not take it; it holds in this process and is retried.
        """
        changes.invalidate(*self._target(args, kwargs))

    async def ainvalidate(self, *args: Any, **kwargs: Any) -> None:
        """Do what `invalidate` does without blocking the event loop."""
        await self._hop(self.invalidate, *args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> None:
        """Delete the value: the next read fetches. In a transaction, on commit.

        Raises:
            StoreUnavailable: The cache did not take it; it holds in this process and is retried.
        """
        changes.delete(*self._target(args, kwargs))

    async def adelete(self, *args: Any, **kwargs: Any) -> None:
        """Do what `delete` does without blocking the event loop."""
        await self._hop(self.delete, *args, **kwargs)

    def clear(self) -> None:
        """Delete every value of the job, of every version and constructor argument, in O(1).

        Raises:
            StoreUnavailable: The cache did not take it; it holds in this process and is retried.
        """
        changes.clear(self._runtime)

    async def aclear(self) -> None:
        """Do what `clear` does without blocking the event loop."""
        await self._hop(self.clear)

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies and pickles of the job consist of: not what is kept ready to use."""
        return {name: value for name, value in vars(self).items() if name != "_kept"}

    # --- inside ---------------------------------------------------------------------------------

    @property
    def job_name(self) -> str:
        """What settings, keys and logs call this job."""
        return type(self).registered_name

    @classmethod
    def overrides(cls, method: str) -> bool:
        """Say whether a subclass has its own version of a method."""
        return getattr(cls, method) is not getattr(AsyncCacheJob, method)

    @property
    def _runtime(self) -> Runtime:
        kept = self._kept
        if kept is None or kept.epoch != conf.epoch:
            kept = self._kept = type(self).runtime_for(self)
        return kept

    def _target(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Runtime, Address]:
        runtime = self._runtime
        return runtime, runtime.address(args, kwargs)

    def _calls(
        self, calls: Iterable[CallLike]
    ) -> Sequence[tuple[tuple[Any, ...], Mapping[str, Any]]]:
        return [self._call(one) for one in calls]

    def _call(self, one: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        if isinstance(one, Call):
            return one.args, one.kwargs
        if isinstance(one, tuple):
            return one, {}
        if isinstance(one, Mapping):
            return (), one
        raise TypeError(
            f"{self.job_name}: a call is a tuple of arguments, a dict of keywords or call(...), "
            f"not a {type(one).__qualname__}."
        )

    @staticmethod
    def _entry_id(address: Address, raw: bytes | None) -> bytes:
        if raw is None:
            return NO_ENTRY
        try:
            return open_entry(raw, address.opener).entry_id
        except EntryRejected:
            return NO_ENTRY  # to be replaced whatever it is

    @staticmethod
    async def _hop(call: Any, /, *args: Any, **kwargs: Any) -> Any:
        return await sync_to_async(call, thread_sensitive=True)(*args, **kwargs)
