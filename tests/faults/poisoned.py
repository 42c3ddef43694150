"""Read poison in a process of its own, under an audit hook: ``python -m tests.faults.poisoned``.

Reads a JSON object of options from standard input, prints what has happened as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

EVENTS = {
    "pickle.find_class",
    "os.system",
    "exec",
    "compile",
    "import",
    "subprocess.Popen",
    "os.posix_spawn",
    "os.exec",
    "os.fork",
}

_watching: list[tuple[str, str]] | None = None


def _owner(depth: int = 2) -> str:
    """Return the innermost module on the stack that is neither of Python nor of this file."""
    frame = sys._getframe(depth)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.partition(".")[0] in ("async_cache", "django", "django_redis", "pymemcache"):
            return str(name)
        frame = frame.f_back  # type: ignore[assignment]
    return ""


def _hook(event: str, args: Any) -> None:
    global _watching
    if _watching is not None and event in EVENTS:
        seen, _watching = _watching, None  # what is looked at here is not part of it
        seen.append((event, _owner()))
        _watching = seen


@contextmanager
def watched() -> Iterator[list[tuple[str, str]]]:
    """Note each event in which code is found, imported or run."""
    global _watching
    seen: list[tuple[str, str]] = []
    _watching = seen
    try:
        yield seen
    finally:
        _watching = None


def _peak_kib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0


def peak_of(work: Callable[[], object]) -> tuple[int, int]:
    """Return by how many bytes the memory grew at most: Python's own, and the whole process'."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = _peak_kib()
    except OSError:
        before = 0
    work()
    resident = (_peak_kib() - before) * 1024 if before else 0
    tracemalloc.start()
    try:
        work()
        traced = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return traced, resident


class Poisoned:
    """Keys of a job, the way to write to them behind the cache's back, and all ways to read."""

    def __init__(self, alias: str, url: str | None) -> None:
        from django.core.cache import caches

        from tests.faults.poisoned_jobs import Texts, Values

        self.cache: Any = caches[alias]
        self.client: Any = None
        if url:
            import redis

            self.client = redis.Redis.from_url(url)
        self.jobs = [Values(cache=alias), Texts(cache=alias)]
        self.errors: list[str] = []
        self.wrong: list[str] = []
        self.reads = 0

    def write(self, name: str, raw: bytes) -> None:
        """Put bytes under the name of a key."""
        if self.client is not None:
            self.client.set(self.cache.make_key(name), raw, ex=600)
        else:
            self.cache.set(name, raw, 600)

    def write_beneath(self, name: str, gadget: bytes) -> None:
        """Put bytes where the backend itself unpickles them."""
        import base64
        import pickle
        import time
        import zlib

        key, cache = self.cache.make_key(name), self.cache
        match type(cache).__name__:
            case "LocMemCache":
                cache._cache[key], cache._expire_info[key] = gadget, None
            case "FileBasedCache":
                path = Path(cache._key_to_file(name))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(pickle.dumps(time.time() + 600) + zlib.compress(gadget))
            case "DatabaseCache":
                from django.db import connection

                cache.set(name, b"", 600)
                with connection.cursor() as cursor:
                    text = base64.b64encode(gadget).decode()
                    table = connection.ops.quote_name(cache._table)
                    cursor.execute(
                        f"UPDATE {table} SET value = %s WHERE cache_key = %s", [text, key]
                    )
            case _:
                from pymemcache import Client  # type: ignore[import-untyped]

                host, _, port = cache._servers[0].rpartition(":")
                Client((host, int(port))).set(key, gadget, noreply=False, flags=1)

    def attempt(self, work: Callable[[], Any], allowed: tuple[Any, ...]) -> None:
        """Read; note what is raised and what must not be returned."""
        self.reads += 1
        try:
            found = work()
        except Exception as error:  # noqa: BLE001 - reported
            self.errors.append(f"{type(error).__qualname__}: {error}"[:300])
            return
        if found not in allowed:
            self.wrong.append(repr(found)[:100])

    def read(self, job: Any, raw: bytes, verbs: int = 5) -> None:
        """Read a key with each verb, the bytes put there anew each time."""
        from async_cache import MISSING

        address = job._runtime.address((1,), {})
        ways: list[Callable[[], Any]] = [
            lambda: job.peek(1),
            lambda: job.get(1),
            lambda: asyncio.run(job.aget(1)),
            lambda: job.get_many([(1,), (2,)])[0],
            lambda: job.explain(1).tags and MISSING,
        ]
        for way in ways[:verbs]:
            self.write(address.entry, raw)
            self.attempt(way, (MISSING, "fetched 1", ()))

    def own(self, job: Any) -> bytes:
        """Return a real entry."""
        job.set("stored", 1)
        address = job._runtime.address((1,), {})
        (raw,) = job._runtime.store.read(job._runtime.store.prepare([address.entry]))
        assert type(raw) is bytes
        return raw


def _tags(job: Any) -> Any:
    return job.explain(1).tags


def gadgets(place: Poisoned, options: dict[str, Any]) -> dict[str, Any]:
    """Read every gadget in every disguise, in the place of entries, stamps, leases and records."""
    from async_cache.entry import KeyRing
    from async_cache.results import fetch, result
    from async_cache.results.layers import get_layer
    from async_cache.results.records import SUCCESS, Record
    from tests.faults.poison import GADGETS, disguises

    ring = KeyRing(["somebody else's secret"])
    step = int(options["step"])
    layer: Any = get_layer(True) if options["results"] else None

    def round_of(chosen: tuple[bytes, ...]) -> None:
        for job in place.jobs:
            own = place.own(job)
            address = job._runtime.address((1,), {})
            for number, gadget in enumerate(chosen):
                raws = list(disguises(own, gadget, ring, address.place))
                for raw in raws[number % step :: step]:
                    place.read(job, raw)
                for name in (address.hard, address.soft, address.lease, address.failure):
                    place.write(name, gadget)
                    if name == address.lease:
                        place.attempt(partial(_tags, job), ((),))
                        place.cache.delete(name)
                    else:
                        place.attempt(partial(job.get, 1), ("fetched 1", "stored"))
        for number, gadget in enumerate(chosen if layer is not None else ()):
            name = layer._names.record(layer._names.tail(f"id{number}"))
            for raw in (gadget, sealed[:16] + gadget, sealed[:32] + gadget, bytes(16) + gadget):
                place.write(name, raw)
                place.attempt(partial(result, f"id{number}", cached=True), (None,))
                place.attempt(partial(fetch, f"id{number}", cached=True), (None,))

    sealed = b""
    if layer is not None:
        layer.save(Record(id="mine", state=SUCCESS, value=b"1", content_type="application/json"))
        tail = layer._names.record(layer._names.tail("mine"))
        sealed = bytes(place.client.get(place.cache.make_key(tail)))
    round_of((b"what is no pickle",))  # what is imported late is imported now
    with watched() as seen:
        round_of(GADGETS)
    with watched() as control:
        __import__("pickle").loads(GADGETS[0])
    return {"seen": seen, "control": control, "gadgets": len(GADGETS)}


def beneath(place: Poisoned, options: dict[str, Any]) -> dict[str, Any]:
    """Read gadgets that the backend unpickles before anybody can look at them."""
    from tests.faults.poison import GADGETS

    job: Any = place.jobs[0]
    address = job._runtime.address((1,), {})
    place.read(job, b"what is no pickle")
    with watched() as seen:
        for gadget in GADGETS[:: int(options["step"])]:
            place.write_beneath(address.entry, gadget)
            job._runtime.store._breaker.succeeded()
            place.attempt(lambda: job.get(1), ("fetched 1",))
    return {"seen": seen}


def bombs(place: Poisoned, options: dict[str, Any]) -> dict[str, Any]:
    """Read little that unpacks to much, sealed as if it were ours; and much that is nothing."""
    from async_cache.entry import COMPRESSED, MAC_SIZE
    from tests.faults.poison import PAYLOAD_AT, bomb

    packed, cap, peaks = bomb(options["size"]), options["cap"], {}
    for job in place.jobs:
        own = place.own(job)
        address = job._runtime.address((1,), {})
        body = own[MAC_SIZE : MAC_SIZE + 4] + bytes([COMPRESSED]) + own[MAC_SIZE + 5 :]
        body = body[:PAYLOAD_AT] + packed
        raw = job._runtime.ring.entry_mac(body, address.place) + body
        peaks[f"{job._runtime.serializer.name}, packed"] = peak_of(partial(place.read, job, raw))
    large = b"AC" * (options["large"] // 2)
    address = job._runtime.address((1,), {})
    place.write(address.entry, large)
    del large, packed, raw, body
    peaks["too large"] = peak_of(lambda: place.attempt(lambda: job.peek(1), MISSES))
    peaks["too large, a coroutine"] = peak_of(
        lambda: place.attempt(lambda: asyncio.run(job.apeek(1)), MISSES)
    )
    place.attempt(lambda: place.jobs[0].get(2), ("fetched 2",))  # nobody else is the worse for it
    place.attempt(lambda: place.jobs[0].peek(2), ("fetched 2",))
    place.attempt(lambda: job.get(1), ("fetched 1",))
    place.attempt(lambda: job.peek(1), ("fetched 1",))
    return {"peaks": peaks, "cap": cap}


MISSES: tuple[Any, ...] = ()


def main() -> None:
    """Do what the options say."""
    global MISSES
    import django

    django.setup()
    from django.core.management import call_command

    from async_cache import MISSING

    MISSES = (MISSING,)
    options = json.load(sys.stdin)
    if options["alias"] == "database":
        call_command("createcachetable", verbosity=0)
    sys.addaudithook(_hook)
    place = Poisoned(options["alias"], options["url"])
    with ExitStack() as stack:
        for target, lets in options["sabotage"].items():
            instead: Any = {"pass": lambda *args: True, "unpack": _unbounded}[lets]
            stack.enter_context(mock.patch(target, instead))
        told = {"gadgets": gadgets, "beneath": beneath, "bombs": bombs}[options["what"]](
            place, options
        )
    told |= {"errors": place.errors, "wrong": place.wrong, "reads": place.reads}
    json.dump(told, sys.stdout)


def _unbounded(data: bytes, limit: int) -> bytes:
    import zlib

    return zlib.decompress(data)


if __name__ == "__main__":
    main()
