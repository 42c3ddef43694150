"""Who takes part: refreshers, writers, readers; and time, a flush, a crash."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from async_cache import AsyncCacheJob, FetchContext, invalidate_tags
from async_cache.attempts import NO_ENTRY, Attempt, Purpose, State, new_token
from async_cache.effects import Effect, Io, Pause, Steps
from async_cache.entry import MISSING, NEGATIVE
from async_cache.exceptions import StoreUnavailable
from async_cache.fetching import Fetch, Fetched
from async_cache.keys import Call
from async_cache.reading import judge
from async_cache.refresh import obtain, refresh
from async_cache.stores.base import Level, Phase
from async_cache.stores.registry import _stores as stores
from tests.explorer.stores import SOUND, Breaks, make_store
from tests.explorer.watch import LEASE, Claiming, Origin, Watch
from tests.explorer.world import Present, World

KEYS = ("x", "y", "z")


class NotThere(LookupError):
    pass


class Plain(AsyncCacheJob[Any]):
    name = "explorer.plain"
    ttl = 60
    grace = 600
    lease = LEASE
    wait = 0.04
    negative = (NotThere,)
    negative_ttl = 30
    jitter = 0

    def fetch(self, key: str) -> Any:
        raise AssertionError("the explorer fetches in its place")

    def fetch_many(self, calls: Sequence[Call]) -> Any:
        raise AssertionError("the explorer fetches in its place")


class Tagged(Plain):
    name = "explorer.tagged"
    tags = ("all",)

    def fetch(self, key: str, *, ctx: FetchContext) -> Any:  # type: ignore[override]
        raise AssertionError("the explorer fetches in its place")


JOBS: dict[str, type[Plain]] = {"plain": Plain, "tagged": Tagged}
VERBS = ("invalidate", "delete", "set", "clear", "invalidate_tags")


def decided_tag(version: int) -> str:
    """Return the tag that the value of a version decides."""
    return f"t{version % 2}"


@dataclass(frozen=True)
class Refresher:
    """Refreshes keys; ``fetch`` says how its fetch ends."""

    keys: tuple[str, ...] = ("x",)
    purpose: Purpose = Purpose.RENEW
    fetch: str = "value"
    renews: bool = False
    waits: bool = False
    queued: bool = False


@dataclass(frozen=True)
class Writer:
    """Changes the source, then tells the cache."""

    verb: str
    key: str = "x"
    tag: str = "all"


@dataclass(frozen=True)
class Reader:
    """Reads a key."""

    key: str = "x"


@dataclass(frozen=True)
class Wait:
    """Lets time pass."""

    seconds: float = LEASE + 1


@dataclass(frozen=True)
class Flush:
    """Empties the store."""


Part = Refresher | Writer | Reader | Wait | Flush


@dataclass(frozen=True)
class Scene:
    """Who takes part, on which store, and what is there at first.

    Attributes:
        level: Of the store.
        parts: The actors.
        job: Which of `JOBS`.
        keys: The calls.
        start: "empty", "stamped" (nothing but the scopes' stamps), "fresh" or "stale".
        split: Whether a read of several names is several commands.
    """

    level: Level
    parts: tuple[Part, ...]
    job: str = "plain"
    keys: tuple[str, ...] = ("x",)
    start: str = "stale"
    split: bool = False


class Stage:
    """One run of a scene: the real job over a store in a world of its own."""

    def __init__(self, scene: Scene, breaks: Breaks = SOUND, *, remembers: bool = False) -> None:
        self.scene = scene
        self.world = world = Present.world = World(split=scene.split, remembers=remembers)
        self.job: Any = _instance(scene.job)
        self.runtime = runtime = self.job._runtime
        self.store = runtime.store = stores["default"] = make_store(scene.level, world, breaks)
        addresses = {key: runtime.address((key,), {}) for key in scene.keys}
        for address in addresses.values():
            address.learn(address.static_tags)
        self.watch = Watch(world, self.store, runtime, addresses)
        self._begin(scene.start)
        for part in scene.parts:
            name = getattr(part, "verb", type(part).__name__.lower())
            world.add(name, self._play(part))

    def _begin(self, start: str) -> None:
        if start == "empty":
            return
        for key in self.scene.keys:
            self.refresh(Refresher((key,), Purpose.FORCE))
        if start == "stamped":
            for address in self.watch.addresses.values():
                self.world.drop(address.entry)
        elif start == "stale":
            self.world.now += 61.0

    def _play(self, part: Part) -> Callable[[], object]:
        match part:
            case Refresher():
                return lambda: self.refresh(part)
            case Writer():
                return lambda: self.write(part)
            case Reader():
                return lambda: self.read(part)
            case Wait():
                return lambda: self._wait(part)
            case Flush():
                return self.world.flush

    def _wait(self, part: Wait) -> None:
        self.world.now += part.seconds

    # Refreshers.

    def refresh(self, part: Refresher) -> list[Attempt]:
        """Run the real protocol of a refresh."""
        runtime, watch = self.runtime, self.watch
        addresses = [watch.addresses[key] for key in part.keys]
        since = watch.tick()
        self.world.learn(watch.returned())
        if part.queued:
            # The publisher wins the queued lease; its message travels; a worker comes.
            claims = [runtime.claim(one, new_token(), Phase.QUEUED) for one in addresses]
            answers = self.store.claim(claims)
            addresses = [one for one, answer in zip(addresses, answers, strict=True) if answer.won]
            if not addresses:
                return []
        replaces = NO_ENTRY
        attempts = [Attempt(one, new_token(), replaces) for one in addresses]
        if part.waits:
            self.drive(obtain(runtime, attempts, part.purpose, runtime.policy.wait), part)
        else:
            self.drive(refresh(runtime, attempts, part.purpose), part)
        for attempt in attempts:
            if attempt.state is State.FOUND and attempt.raw is not None:
                assert attempt.header is not None
                header, origin = watch.open(attempt.raw)
                decision = watch.judge(header, attempt.claimed and attempt.claimed.stamps)
                if len(header.tags) == len(attempt.address.static_tags):
                    watch.check_answer(decision, header, origin, since)
        return attempts

    def drive(self, steps: Steps[None], part: Refresher) -> None:
        """Perform a protocol's effects: its exchanges for real, its fetches in the model."""
        answer: Any = None
        error: BaseException | None = None
        began = self.world.now, self.world.flushes
        claims: list[Claiming] = []
        while True:
            try:
                effect = steps.send(answer) if error is None else steps.throw(error)
            except StopIteration:
                self.watch.gave_up(claims)
                return
            answer, error = None, None
            try:
                if isinstance(effect, Io) and effect.verb == "claim":
                    began = self.world.now, self.world.flushes
                    self.watch.gave_up(claims)
                    claims = self.watch.claimed(list(part.keys))
                answer = self._perform(effect, part, began)
            except BaseException as raised:  # noqa: BLE001
                error = raised

    def _perform(self, effect: Effect, part: Refresher, began: tuple[float, int]) -> Any:
        if isinstance(effect, Io):
            answer = effect.perform()
            if effect.verb == "commit":
                self.watch.answered(effect.argument, answer)
            return answer
        if isinstance(effect, Pause):
            self.world.sleep(effect.seconds)
            return None
        assert isinstance(effect, Fetch)
        return self._fetch(effect, part, began)

    def _fetch(self, effect: Fetch, part: Refresher, began: tuple[float, int]) -> list[Fetched]:
        world, watch = self.world, self.watch
        world.stop("fetch")
        started = world.now
        keys = [attempt.address.call.args[0] for attempt in effect.attempts]
        flights = []
        if effect.leased:
            flights = [watch.took_off(key, began[0] + LEASE, began[1]) for key in keys]
        origins = [watch.fetched(key) for key in keys]
        world.learn(tuple(origins))
        if part.renews and effect.leased:
            leases = [(one.address.lease, one.token, LEASE) for one in effect.attempts]
            renewing = world.now
            for flight, held in zip(flights, self.store.renew(leases), strict=True):
                if held:
                    flight.until = max(flight.until, renewing + LEASE)
        world.stop("fetched")
        for flight in flights:
            watch.landed(flight)
        return [
            self._answer(part.fetch, origin, started, context)
            for origin, context in zip(origins, effect.contexts, strict=True)
        ]

    def _answer(
        self, how: str, origin: Origin, started: float, context: FetchContext | None
    ) -> Fetched:
        seconds = self.world.now - started
        if context is not None:
            context.add_tags(decided_tag(origin.version))
        if how == "fail":
            return Fetched(MISSING, OSError(), started, seconds, context)
        facts = (origin.key, origin.version, origin.serial, origin.started, origin.fetched)
        if how == "negative":
            return Fetched(MISSING, NotThere(facts), started, seconds, context)
        return Fetched(facts, None, started, seconds, context)

    # Writers and readers.

    def write(self, part: Writer) -> None:
        """Change the source and run the job's real verb."""
        watch, verb = self.watch, part.verb
        wide = verb in ("clear", "invalidate_tags")
        keys = self.scene.keys if wide else (part.key,)
        tag = part.tag if verb == "invalidate_tags" else ""
        write = watch.wrote(keys, tag, hard=verb in ("delete", "set", "clear"))
        self.world.learn(write.version)
        origin = None
        if verb == "set":
            origin = watch.fetched(part.key, fetched=False)
            facts = (origin.key, origin.version, origin.serial, origin.started, origin.fetched)
            flushes = self.world.flushes
            try:
                self.job.set(facts, part.key)
            except StoreUnavailable:
                # It found the stamps gone that it had just written, and said so.
                assert self.world.flushes > flushes
                return
        elif verb == "clear":
            self.job.clear()
        elif verb == "invalidate_tags":
            invalidate_tags(part.tag)
        else:
            getattr(self.job, verb)(part.key)
        watch.finished(write, origin)

    def read(self, part: Reader) -> None:
        """Read as `get` does, without what follows a miss."""
        watch = self.watch
        since = watch.tick()
        address = watch.addresses[part.key]
        found = judge(self.runtime, address, self.store.read(address.handle))
        if found is not None:
            header, value, decision = found
            facts = value.error.args[0] if header.flags & NEGATIVE else value
            watch.check_answer(decision, header, Origin(*facts), since)

    # The end.

    def finish(self) -> None:
        """Check what must hold when all actors have ended: leases are free, refreshes work."""
        world, watch = self.world, self.watch
        watch.check()
        if not any(actor.killed for actor in world.actors):
            watch.check_leases()
        # P5: whatever has happened, within a lease (and a back-off) a read starts a refresh again.
        world.now += LEASE
        for key in self.scene.keys:
            address = watch.addresses[key]
            for _ in range(2):
                (attempt,) = self.refresh(Refresher((key,)))
                if attempt.state is not State.BACKED_OFF:
                    break
                world.now += 61.0
            if attempt.state is State.FOUND:
                continue
            assert attempt.state is State.FETCHED, (key, attempt)
            seen = watch.look(key)
            assert seen is not None, (key, attempt)
            assert seen[0].status.name == "FRESH", (key, attempt, seen[0])
            assert seen[2].version == watch.source.get(key, 0)
            assert self.store.holders([address.lease]) == [None]
        watch.check()


_instances: dict[str, Any] = {}


def _instance(name: str) -> Any:
    if name not in _instances:
        _instances[name] = JOBS[name]()
    return _instances[name]
