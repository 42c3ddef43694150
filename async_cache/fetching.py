"""Run the user's ``fetch``: the one place where a job's own code is called to get a value."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from asgiref.sync import async_to_sync, sync_to_async

from async_cache import clock, heartbeat, transactions, vary
from async_cache.context import FetchContext
from async_cache.entry import MISSING
from async_cache.exceptions import FetchTimeout
from async_cache.keys import detached

if TYPE_CHECKING:
    from async_cache.attempts import Attempt
    from async_cache.targets import Runtime

__all__ = ["Fetch", "Fetched", "being_fetched", "timeout_errors"]

timeout_errors: Final[list[type[BaseException]]] = []
"""Exceptions by which a dispatcher stops a fetch that ran too long; they become `FetchTimeout`."""

_being_fetched: ContextVar[frozenset[str]] = ContextVar("async_cache_being_fetched")
_NONE: Final[frozenset[str]] = frozenset()


def being_fetched() -> frozenset[str]:
    """Return the keys that this thread or task is fetching, outer fetches included."""
    return _being_fetched.get(_NONE)


class Fetched(NamedTuple):
    """What a fetch gave.

    Attributes:
        value: What it returned, or `MISSING` when it raised.
        error: What it raised.
        started: Wall clock at its start; age counts from here.
        seconds: How long it took.
        context: What the fetch decided through ``ctx``, None where it does not ask for it.
        transaction: The transaction it ran in; the value must not be stored before that commits.
    """

    value: Any
    error: Exception | None
    started: float
    seconds: float
    context: FetchContext | None = None
    transaction: transactions.Transaction | None = None


class Fetch:
    """Effect: fetch some calls of one job; several only where the job has ``fetch_many``."""

    __slots__ = ("attempts", "contexts", "leased", "runtime")

    def __init__(
        self,
        runtime: Runtime,
        attempts: Sequence[Attempt],
        contexts: Sequence[FetchContext | None],
        *,
        leased: bool,
    ) -> None:
        self.runtime = runtime
        self.attempts = attempts
        self.contexts = contexts
        self.leased = leased

    def perform(self) -> list[Fetched]:
        """Fetch in this thread."""
        if self.runtime.fetches_async:
            return async_to_sync(self.aperform)()
        transaction = transactions.current()
        started, begun = clock.now(), clock.monotonic()
        with self._surroundings():
            outcomes = self._settle(self._call)
        return self._report(outcomes, started, clock.monotonic() - begun, transaction)

    async def aperform(self) -> list[Fetched]:
        """Fetch without blocking the event loop: a plain ``fetch`` runs in Django's own thread."""
        if not self.runtime.fetches_async:
            fetched: list[Fetched] = await sync_to_async(self.perform, thread_sensitive=True)()
            return fetched
        # Beneath a transaction (async_to_sync in a view) its ORM calls run on that connection.
        transaction = await sync_to_async(transactions.current, thread_sensitive=True)()
        started, begun = clock.now(), clock.monotonic()
        with self._surroundings():
            outcomes = await self._asettle()
        return self._report(outcomes, started, clock.monotonic() - begun, transaction)

    @contextmanager
    def _surroundings(self) -> Iterator[None]:
        runtime = self.runtime
        keys = being_fetched().union(attempt.address.entry for attempt in self.attempts)
        with ExitStack() as stack:
            if self.leased:
                stack.enter_context(
                    heartbeat.holding(
                        runtime.store,
                        [(attempt.address.lease, attempt.token) for attempt in self.attempts],
                        runtime.policy.lease,
                        runtime.policy.fetch_timeout,
                        self.attempts[0].address.context,
                    )
                )
            if runtime.vary:
                stack.enter_context(vary.activate(self.attempts[0].address.context))
            token = _being_fetched.set(keys)
            try:
                yield
            finally:
                _being_fetched.reset(token)

    def _call(self) -> Any:
        job = self.runtime.job
        if len(self.attempts) > 1:
            return job.fetch_many([detached(attempt.address.call) for attempt in self.attempts])
        call = detached(self.attempts[0].address.call)
        if self.contexts[0] is not None:
            return job.fetch(*call.args, **call.kwargs, ctx=self.contexts[0])
        return job.fetch(*call.args, **call.kwargs)

    def _settle(self, call: Any) -> list[Any]:
        try:
            answer = call()
        except Exception as error:  # noqa: BLE001 - the protocol records it
            return [self._named(error)] * len(self.attempts)
        return self._spread(answer)

    async def _asettle(self) -> list[Any]:
        limit = self.runtime.policy.fetch_timeout
        try:
            async with asyncio.timeout(limit) as bound:
                answer = await self._call()
        except Exception as error:  # noqa: BLE001 - the protocol records it
            if isinstance(error, TimeoutError) and bound.expired():
                error = self._timed_out(error)
            return [self._named(error)] * len(self.attempts)
        return self._spread(answer)

    def _spread(self, answer: Any) -> list[Any]:
        """Give each call its answer; errors are wrapped, since a value may be an exception too."""
        count = len(self.attempts)
        if count == 1:
            return [answer]
        answers = list(answer)
        if len(answers) != count:
            error = TypeError(
                f"{self.runtime.name}.fetch_many returned {len(answers)} values for {count} calls. "
                "Return one for each call, in order; an exception in the place of a failed one."
            )
            return [_Raised(error)] * count
        return [_Raised(item) if isinstance(item, Exception) else item for item in answers]

    def _named(self, error: Exception) -> _Raised:
        if isinstance(error, tuple(timeout_errors)):
            error = self._timed_out(error)
        return _Raised(error)

    def _timed_out(self, cause: BaseException) -> FetchTimeout:
        error = FetchTimeout(
            f"{self.runtime.name}: the fetch ran past its fetch_timeout of "
            f"{self.runtime.policy.fetch_timeout:g} s."
        )
        error.__cause__ = cause
        return error

    def _report(
        self,
        outcomes: Sequence[Any],
        started: float,
        seconds: float,
        transaction: transactions.Transaction | None,
    ) -> list[Fetched]:
        report = []
        for outcome, context in zip(outcomes, self.contexts, strict=True):
            raised = outcome.error if isinstance(outcome, _Raised) else None
            value = MISSING if raised is not None else outcome
            report.append(Fetched(value, raised, started, seconds, context, transaction))
        return report


class _Raised(NamedTuple):
    error: Exception
