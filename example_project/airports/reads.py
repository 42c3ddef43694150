"""The reads that the pages show: which job, with which arguments, and how each one went.

A project of your own needs none of this. There a view calls `AirportWeather().get(code)` and is
done; here each read is timed and its state looked up, so that a person can watch.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from asgiref.sync import sync_to_async

from async_cache import AsyncCacheError, StoreUnavailable

from .jobs import AirportWeather, airport_by_code, airports_where, country_table, remotest_airports

REMOTEST = 15
UNKNOWN = "unknown"  # the state of a read while the cache does not answer
HISTORY = 8  # timed reads kept for each read
WATCHED = 24  # reads kept for the live page


class UnknownRead(LookupError):
    """An address names a read that this project does not have."""


@dataclass(frozen=True)
class Read:
    """One call of one job.

    Attributes:
        kind: What is read; part of the address.
        argument: For which airport or country; empty where there is only one.
        title: What to call it on a page.
        source: The code that a view would write.
        job: The job.
        call: Its keyword arguments.
    """

    kind: str
    argument: str
    title: str
    source: str
    job: Any
    call: Mapping[str, Any] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """The part of an address that names this read."""
        return f"{self.kind}/{self.argument or '-'}"


@dataclass(frozen=True)
class Answer:
    """How one read went.

    Attributes:
        state: fresh, stale, miss or unknown, looked up just before the read.
        milliseconds: How long the read took.
        value: What it returned; None when it raised.
        error: What it raised, for people; empty when it did not.
        at: When, by the wall clock.
    """

    state: str
    milliseconds: float
    value: Any
    error: str
    at: float


def find_read(kind: str, argument: str = "-") -> Read:
    """Return the read that an address names.

    Raises:
        UnknownRead: There is none.
    """
    argument = "" if argument == "-" else argument
    if kind == "weather" and len(argument) == 3:
        code = argument.upper()
        source = f'AirportWeather().get("{code}")'
        return Read(kind, code, f"Weather at {code}", source, AirportWeather(), {"code": code})
    if kind == "airport" and len(argument) == 3:
        code = argument.upper()
        source = f'airport_by_code.get(code="{code}")'
        return Read(kind, code, f"Airport {code}", source, airport_by_code, {"code": code})
    if kind == "country" and len(argument) == 2:
        code = argument.upper()
        source = f'airports_where.filter(country__code="{code}")'
        call = {"country__code": code}
        return Read(kind, code, f"Airports in {code}", source, airports_where, call)
    if kind == "countries" and not argument:
        return Read(kind, "", "Airports by country", "country_table()", country_table.job)
    if kind == "remotest" and not argument:
        source = f"remotest_airports({REMOTEST})"
        job = remotest_airports.job
        return Read(kind, "", "Remotest airports", source, job, {"limit": REMOTEST})
    raise UnknownRead(f"{kind}/{argument}")


def look(read: Read) -> str:
    """Return the state of a read without doing it."""
    try:
        return str(read.job.explain(**read.call).status.name.lower())
    except StoreUnavailable:
        return UNKNOWN  # the cache is down; the read itself still gets an answer


def ask(read: Read) -> Answer:
    """Do a read and time it."""
    state = look(read)
    value, error = None, ""
    started = time.perf_counter()
    try:
        value = read.job.get(**read.call)
    except (AsyncCacheError, OSError) as problem:
        # With nothing servable in the cache the error of the source reaches the one who asks.
        error = f"{type(problem).__name__}: {problem}"
    return history.note(read, state, started, value, error)


async def ask_all(reads: Sequence[Read]) -> list[Answer]:
    """Do several reads of one job at the same time, on the event loop.

    They are answered together, so each answer shows the time of all.
    """
    job = reads[0].job
    states = await asyncio.gather(*(sync_to_async(look)(read) for read in reads))
    started = time.perf_counter()
    values = await job.aget_many([dict(read.call) for read in reads])
    milliseconds = (time.perf_counter() - started) * 1000
    answers = []
    for read, state, value in zip(reads, states, values, strict=True):
        history.watch(read)
        failed = isinstance(value, Exception)
        error = f"{type(value).__name__}: {value}" if failed else ""
        kept = None if failed else value
        answers.append(Answer(state, milliseconds, kept, error, time.time()))
    return answers


class History:
    """The last reads of this web server, by read. Bounded both ways."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._reads: OrderedDict[str, tuple[Read, deque[Answer]]] = OrderedDict()

    def note(self, read: Read, state: str, started: float, value: Any, error: str) -> Answer:
        """Remember a read that has just ended."""
        milliseconds = (time.perf_counter() - started) * 1000
        answer = Answer(state, milliseconds, value, error, time.time())
        # The value itself is not kept: only how long it took.
        kept = Answer(state, milliseconds, None, error, answer.at)
        self.watch(read, kept)
        return answer

    def watch(self, read: Read, *answers: Answer) -> None:
        """Show a read on the live page, and add how it went where that was timed."""
        with self._lock:
            _, past = self._reads.setdefault(read.address, (read, deque(maxlen=HISTORY)))
            past.extendleft(answers)
            self._reads.move_to_end(read.address)
            while len(self._reads) > WATCHED:
                self._reads.popitem(last=False)

    def of(self, read: Read) -> list[Answer]:
        """The last reads of one read, the newest first."""
        with self._lock:
            _, answers = self._reads.get(read.address, (read, deque()))
            return list(answers)

    def reads(self) -> list[Read]:
        """The reads done lately, in a stable order."""
        with self._lock:
            found = [read for read, _ in self._reads.values()]
        return sorted(found, key=lambda read: (read.kind, read.argument))


history = History()
