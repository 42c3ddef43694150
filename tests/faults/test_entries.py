"""Row "entries": whatever stands where an entry should, reading it is a miss and nothing else.

`check_mutations` writes bytes made from real entries behind the cache's back and reads them with
every verb. `check_truncations` cuts real entries at each byte. `check_formats` reads what was
sealed here in a layout that is not read here. `check_models` reads entries of a model that has
changed since, `check_versions` those of another deploy.

`tests.test_hostile_entries` does the first on other backends, `tests.test_entry` knows the header.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from types import ModuleType
from typing import Any, cast

import pytest
import redis
from asgiref.sync import async_to_sync
from django.apps import apps
from django.core.cache import caches
from django.db import models

from async_cache import MISSING, AsyncCacheJob, listeners, signals
from async_cache.addresses import Address
from async_cache.entry import MAC_SIZE, open_entry
from async_cache.exceptions import EntryRejected
from tests.dispatchers.support import heard
from tests.faults.breaks import Break, caught
from tests.faults.poison import HEAD
from tests.faults.scale import count
from tests.test_hostile_entries import hostile

KEYS = 100
SAMPLES = 10
"""Each so many reads fetch and store again, the others only look."""


class Plain(AsyncCacheJob[Any]):
    """Keeps what a fetch returned, type for type."""

    ttl = 600
    jitter = 0
    tags = ("faults",)

    def fetch(self, number: int) -> Any:
        return ["fetched", number]


class Texts(Plain):
    """The same as text, so that what is not sealed can be read without harm."""

    serializer = "json"


class Told(Plain):
    """Returns what a test says."""

    answer: Any = None

    def fetch(self, number: int) -> Any:
        return type(self).answer


@dataclass
class Behind:
    """The cache of all jobs, and a way to write to it behind its back."""

    client: redis.Redis

    def place(self, address: Address) -> str:
        return str(caches["redis"].make_key(address.entry))

    def read(self, address: Address) -> bytes:
        raw = self.client.get(self.place(address))
        assert isinstance(raw, bytes)
        return raw

    def write(self, raws: Mapping[int, bytes], addresses: list[Address]) -> None:
        with self.client.pipeline(transaction=False) as pipe:
            for number, raw in raws.items():
                pipe.set(self.place(addresses[number]), raw, ex=600)
            pipe.execute()


@pytest.fixture
def behind(settings: Any, redis_caches: str) -> Iterator[Behind]:
    settings.ASYNC_CACHE = {"CACHE": "redis", "DISPATCHER": "immediate", "IO_TIMEOUT": 10}
    listeners.limit.clear()
    with redis.Redis.from_url(redis_caches) as client:
        yield Behind(client)


def addresses_of(job: AsyncCacheJob[Any], keys: int = KEYS) -> list[Address]:
    return [job._runtime.address((number,), {}) for number in range(keys)]


def stored(behind: Behind, job: AsyncCacheJob[Any], keys: int = KEYS) -> list[bytes]:
    """Store a value under each key and return the entries."""
    for number in range(keys):
        job.set(["stored", number], number)
    return [behind.read(address) for address in addresses_of(job, keys)]


class Reading:
    """Reads with one verb after the other; gathers what is raised and what is wrong."""

    def __init__(self, job: AsyncCacheJob[Any]) -> None:
        self.job = job
        self.errors: list[Exception] = []
        self.wrong: list[Any] = []

    def fetched(self, number: int, turn: int) -> Any:
        """Return a value, by one of the verbs that fetch."""
        match turn % 3:
            case 0:
                return self.job.get(number)
            case 1:
                return self.job.get_many([(number,)])[0]
            case _:
                return async_to_sync(self.job.aget)(number)

    def expect(self, number: int, turn: int, intact: bool) -> None:
        """Read what stands under a key."""
        try:
            if turn % SAMPLES:
                found, miss = self.job.peek(number), cast("Any", MISSING)
            else:
                found, miss = self.fetched(number, turn // SAMPLES), ["fetched", number]
        except Exception as error:  # noqa: BLE001 - counted
            self.errors.append(error)
            return
        wanted = ["stored", number] if intact else miss
        if found != wanted:
            self.wrong.append((number, found))

    def judge(self) -> None:
        assert not self.errors, f"{len(self.errors)} errors, {self.errors[:3]!r}"
        assert not self.wrong, f"{len(self.wrong)} wrong values, {self.wrong[:3]!r}"


def check_mutations(behind: Behind, job: AsyncCacheJob[Any], caplog: Any) -> None:
    """Read mutated, spliced and swapped entries with every verb: each is a miss."""
    random = Random(5)
    own, addresses, reading = stored(behind, job), addresses_of(job), Reading(job)
    listeners.limit.clear()
    caplog.clear()
    begun, rejected = time.monotonic(), 0
    with heard(signals.entry_rejected) as told:
        for first in range(0, count(1_000, 50_000), KEYS):
            raws = {n: hostile(random, own[n], own[:n] + own[n + 1 :]) for n in range(KEYS)}
            behind.write(raws, addresses)
            for number, raw in raws.items():
                intact = raw == own[number]
                rejected += not intact
                reading.expect(number, first + number, intact)
    reading.judge()
    assert len(told) >= rejected
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert 1 <= len(warnings) <= 1 + (time.monotonic() - begun) // 60, "too many warnings"


def check_opening(behind: Behind, job: AsyncCacheJob[Any]) -> None:
    """Open mutated entries: nothing but `EntryRejected` is raised, nothing else opens."""
    random = Random(6)
    own, addresses = stored(behind, job, 10), addresses_of(job, 10)
    for turn in range(count(10_000, 50_000)):
        number = turn % 10
        raw = hostile(random, own[number], own[:number] + own[number + 1 :])
        try:
            open_entry(raw, addresses[number].opener)
        except EntryRejected:
            continue
        assert raw == own[number], "what is not intact opens"


def check_truncations(behind: Behind, job: AsyncCacheJob[Any]) -> None:
    """Cut an entry at each of its bytes."""
    (own, *_), (address, *_) = stored(behind, job, 1), addresses_of(job, 1)
    reading = Reading(job)
    for cut in range(len(own)):
        with pytest.raises(EntryRejected):
            open_entry(own[:cut], address.opener)
        behind.write({0: own[:cut]}, [address])
        reading.expect(0, cut, intact=False)
    reading.judge()
    behind.write({0: own}, [address])
    assert job.get(0) == ["stored", 0]


def resealed(job: AsyncCacheJob[Any], body: bytes, address: Address) -> bytes:
    """Seal bytes as only somebody with the project's secrets can: an older or newer release."""
    return job._runtime.ring.entry_mac(body, address.place) + body


def layouts(body: bytes, random: Random) -> Iterator[bytes]:
    """Yield bodies that are laid out in another way."""
    for version in (0, 2, 3, 255):
        yield b"AC" + bytes([version]) + body[3:]
    yield b"XX\x01" + body[3:]
    for cut in range(0, 60, 3):
        yield body[:cut]
    for codec in (7, 254, 255):
        yield body[:5] + bytes([codec]) + body[6:]
    # More stamps, or more about the value, than there are.
    yield body[:6] + b"\xff\xff" + body[8:]
    yield body[:8] + b"\xff\xff" + body[10:]
    for _ in range(count(50, 2_000)):
        yield random.randbytes(random.randrange(200))
        # The same layout with something else about the value.
        at = random.randrange(HEAD, len(body))
        yield body[:at] + random.randbytes(random.randrange(1, 9)) + body[at + 2 :]


def check_formats(behind: Behind) -> None:
    """Read what was sealed here in another layout."""
    job = Texts()
    (own, *_), (address, *_) = stored(behind, job, 1), addresses_of(job, 1)
    reading = Reading(job)
    for turn, body in enumerate(layouts(own[MAC_SIZE:], Random(7))):
        behind.write({0: resealed(job, body, address)}, [address])
        try:
            found = job.peek(0) if turn % SAMPLES else reading.fetched(0, turn // SAMPLES)
        except Exception as error:  # noqa: BLE001 - counted
            reading.errors.append(error)
            continue
        # Bytes behind the header are the value's or its tags': sealed, so believed if they load.
        if body[:HEAD] != own[MAC_SIZE:][:HEAD] and found not in (MISSING, ["fetched", 0]):
            reading.wrong.append((turn, found))
    reading.judge()


def test_mutated_entries_are_misses(behind: Behind, caplog: pytest.LogCaptureFixture) -> None:
    check_mutations(behind, Plain(), caplog)


def test_mutated_entries_do_not_open(behind: Behind) -> None:
    check_opening(behind, Plain())


@pytest.mark.parametrize("job", [Plain, Texts])
def test_entries_cut_at_each_byte_are_misses(behind: Behind, job: type[Plain]) -> None:
    check_truncations(behind, job())


def test_entries_of_other_formats_are_misses(behind: Behind) -> None:
    check_formats(behind)


def test_a_job_warns_once_a_minute(
    behind: Behind, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_warnings(behind, caplog, monkeypatch)


def check_warnings(behind: Behind, caplog: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read what does not open for three minutes: each job warns three times."""
    now = 1000.0
    monkeypatch.setattr(listeners.limit, "_clock", lambda: now)
    listeners.limit.clear()
    caplog.clear()
    jobs = [Plain(), Texts(), Told()]
    for _ in range(3):
        for job in jobs:
            for number, address in enumerate(addresses_of(job, 20)):
                behind.write({0: b"AC\x01" * 30}, [address])
                assert job.peek(number) is MISSING
        now += 60.0
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3 * len(jobs), f"{len(said)} warnings"
    assert sum("(19 more since" in text for text in said) == 2 * len(jobs)


# --- other deploys ------------------------------------------------------------------------------


FIELDS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "as it was": lambda: {"weight": models.IntegerField(), "label": models.CharField()},
    "added": lambda: {
        "weight": models.IntegerField(),
        "label": models.CharField(),
        "colour": models.CharField(default="red"),
    },
    "removed": lambda: {"weight": models.IntegerField()},
    "renamed": lambda: {"weight": models.IntegerField(), "title": models.CharField()},
    "of another type": lambda: {"weight": models.FloatField(), "label": models.CharField()},
    "in another order": lambda: {"label": models.CharField(), "weight": models.IntegerField()},
}


@contextmanager
def deployed(fields: Mapping[str, Any]) -> Iterator[type[models.Model]]:
    """Run code whose model ``library.Parcel`` has these fields."""
    known = apps.all_models["library"]
    before = known.pop("parcel", None)
    meta = type("Meta", (), {"app_label": "library"})
    body = {"__module__": "tests.app.models", "Meta": meta, **fields}
    try:
        yield type("Parcel", (models.Model,), body)
    finally:
        known.pop("parcel")
        if before is not None:
            known["parcel"] = before
        apps.clear_cache()


def parcel(model: type[models.Model]) -> models.Model:
    """Return an instance whose values tell the fields apart."""
    values = {"weight": 7, "label": "a label", "title": "a title", "colour": "blue"}
    names = [field.name for field in model._meta.fields if field.name != "id"]
    return model(id=1, **{name: values[name] for name in names})


def check_models(behind: Behind) -> None:
    """Let each deploy read what each other one has stored, in both directions."""
    job, reading = Told(), Reading(Told())
    for turn, (writer, reader) in enumerate((a, b) for a in FIELDS for b in FIELDS if a != b):
        with deployed(FIELDS[writer]()) as model:
            Told.answer = [parcel(model)]
            job.refresh(1)
            assert held(job.get(1), model) == held(Told.answer, model)
        with deployed(FIELDS[reader]()) as model:
            Told.answer = [parcel(model)]
            try:
                if job.peek(1) is not MISSING:
                    reading.wrong.append((writer, reader, "peek"))
                if held(reading.fetched(1, turn), model) != held(Told.answer, model):
                    reading.wrong.append((writer, reader))
            except Exception as error:  # noqa: BLE001 - counted
                reading.errors.append(error)
    reading.judge()


def held(value: Any, model: type[models.Model]) -> dict[str, Any]:
    """Return what the one instance in a list holds, when it is one of this model."""
    (instance,) = value
    assert type(instance) is model
    return {name: item for name, item in vars(instance).items() if name != "_state"}


def test_entries_of_changed_models_are_misses(behind: Behind) -> None:
    check_models(behind)


def test_entries_of_a_model_that_is_gone_are_misses(behind: Behind) -> None:
    job, reading = Told(), Reading(Told())
    with deployed(FIELDS["as it was"]()) as model:
        Told.answer = [parcel(model)]
        job.refresh(1)
    Told.answer = "fetched"
    assert job.peek(1) is MISSING
    for turn in range(3):
        assert reading.fetched(1, turn) == "fetched"


CLASSES = """
import collections, enum
class Sized:
    def __init__(self): self.size = 3
class Kind(enum.Enum):
    OLD = 1
    NEW = 2
Couple = collections.namedtuple("Couple", "left right")
class Failing(Exception): pass
"""

LATER = {
    "the class": (CLASSES.replace("class Sized", "class Resized"), "Sized()"),
    "the member": (CLASSES.replace("OLD = 1", ""), "Kind.OLD"),
    "a field": (CLASSES.replace("left right", "left"), "Couple(1, 2)"),
    "all of it": ("", "[Couple(1, 2), Sized(), Kind.NEW]"),
    "the module": (None, "{Kind.OLD: 1}"),
    "the error": ("", "Failing('a message')"),
}


@contextmanager
def module(text: str | None) -> Iterator[dict[str, Any]]:
    """Have a module of this text; None for none."""
    name = "tests_faults_deployed"
    made = ModuleType(name)
    made.__dict__["__name__"] = name
    exec(text or "", made.__dict__)
    if text is not None:
        sys.modules[name] = made
    try:
        yield made.__dict__
    finally:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("gone", LATER)
def test_entries_of_what_is_gone_are_misses(behind: Behind, gone: str) -> None:
    later, expression = LATER[gone]
    job, reading = Told(), Reading(Told())
    for turn in range(3):
        with module(CLASSES) as names:
            Told.answer = eval(expression, names)
            job.refresh(1)
            assert type(job.get(1)) is type(Told.answer)
        Told.answer = "fetched"
        with module(later):
            assert job.peek(1) is MISSING
            assert reading.fetched(1, turn) == "fetched"


class Versioned(Plain):
    """Its value tells which deploy has fetched it."""

    name = "faults.versioned"
    version: Any = 1

    def fetch(self, number: int) -> Any:
        return [f"of {type(self).version}", number]


class VersionedAnew(Versioned):
    """The same job in the next deploy."""

    name = "faults.versioned"
    version = 2


def check_versions(behind: Behind) -> None:
    """Bump a job's version while the former one still runs: neither sees the other's values."""
    jobs, keys = (Versioned(), VersionedAnew()), range(20)
    for job in jobs:
        assert all(job.peek(number) is MISSING for number in keys), "another version's"
        job.get_many([(number,) for number in keys])
    for number in keys:
        assert [job.peek(number) for job in jobs] == [["of 1", number], ["of 2", number]]
    # Both ways: the entry of the one in the place of the other does not open there.
    addresses = [addresses_of(job, 20) for job in jobs]
    raws = [[behind.read(address) for address in found] for found in addresses]
    behind.write(dict(enumerate(raws[0])), addresses[1])
    behind.write(dict(enumerate(raws[1])), addresses[0])
    for number in keys:
        assert all(job.peek(number) is MISSING for job in jobs), "another version's"
        assert [job.get(number) for job in jobs] == [["of 1", number], ["of 2", number]]
    jobs[0].clear()
    assert all(job.peek(number) is MISSING for job in jobs for number in keys)


def test_versions_do_not_see_each_other(behind: Behind) -> None:
    check_versions(behind)


# --- breaks -------------------------------------------------------------------------------------


class _AnyFormat(bytes):
    def __ne__(self, other: object) -> bool:
        return False

    __eq__ = None  # type: ignore[assignment]
    __hash__ = bytes.__hash__


@pytest.mark.faults
class TestBreaks:
    def test_without_the_seal(self, behind: Behind, caplog: Any) -> None:
        broken = Break(
            "the seal is not checked", "async_cache.entry.compare_digest", lambda a, b: True
        )
        caught(broken, lambda: check_mutations(behind, Texts(), caplog))
        caught(broken, lambda: check_opening(behind, Texts()))

    def test_without_the_key_in_the_seal(self, behind: Behind, caplog: Any) -> None:
        broken = Break("any key opens", "async_cache.keyring._framed", lambda data: b"")
        caught(broken, lambda: check_mutations(behind, Plain(), caplog))
        caught(broken, lambda: check_versions(behind))

    def test_without_the_format(self, behind: Behind) -> None:
        broken = Break(
            "the format is not looked at", "async_cache.entry._FORMAT", _AnyFormat(b"AC\x01")
        )
        caught(broken, lambda: check_formats(behind))

    def test_without_the_fingerprint(self, behind: Behind) -> None:
        broken = Break(
            "models are not compared", "async_cache.serializers.rows.fingerprint", lambda _: b""
        )
        caught(broken, lambda: check_models(behind))

    def test_without_the_limit(
        self, behind: Behind, caplog: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broken = Break(
            "each warning is said", "async_cache.listeners.RateLimit.admit", lambda *_: 0
        )
        caught(broken, lambda: check_warnings(behind, caplog, monkeypatch))
