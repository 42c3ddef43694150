"""Row "secrets": ``SECRET_KEY`` is changed while everything runs.

`check_rotation` changes it with the former one among the fallbacks, `check_lost_secret` without it.
Eight threads read all keys meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
from django.test import override_settings

from async_cache import AsyncCacheJob, signals, worker
from async_cache.dispatchers import get_dispatcher
from async_cache.entry import KeyRing, open_entry
from async_cache.exceptions import EntryRejected
from async_cache.keyring import Opener
from async_cache.messages import seal_message
from async_cache.secret_keys import get_ring
from tests.dispatchers.support import heard
from tests.faults.breaks import Break, caught
from tests.faults.scale import count

THREADS = 8
KEYS = [f"key{number}" for number in range(200)]
FORMER = "not a secret: the former one"
CURRENT = "not a secret: the current one"


class Sealed(AsyncCacheJob[str]):
    """Fresh for long; counts its fetches."""

    ttl = 3600
    jitter = 0
    fetched: ClassVar[Counter[str]] = Counter()

    def fetch(self, key: str) -> str:
        time.sleep(0.001)
        self.fetched[key] += 1
        return f"{key} {self.fetched[key]}"


@pytest.fixture
def shelf(settings: Any, redis_caches: str) -> Iterator[Any]:
    settings.SECRET_KEY = FORMER
    settings.ASYNC_CACHE = {
        "CACHE": "redis",
        "DISPATCHER": "tests.jobs.support.Shelf",
        "IO_TIMEOUT": 10,
    }
    found: Any = get_dispatcher("tests.jobs.support.Shelf")
    found.messages.clear()
    Sealed.fetched.clear()
    yield found
    found.messages.clear()


@contextmanager
def read_by_many() -> Iterator[Counter[str]]:
    """Let threads read all keys as often as they can; count sweeps, and collect what is wrong."""
    ended = threading.Event()
    seen: Counter[str] = Counter()
    errors: list[Exception] = []

    def read() -> None:
        while not ended.is_set():
            for key in KEYS:
                try:
                    if not Sealed().get(key).startswith(key):
                        seen["wrong"] += 1
                except Exception as error:  # noqa: BLE001 - counted
                    errors.append(error)
            seen["sweeps"] += 1

    threads = [threading.Thread(target=read, daemon=True) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        ended.set()
        for thread in threads:
            thread.join(30)
    assert not errors, errors[:3]
    assert not seen["wrong"]


def more_sweeps(seen: Counter[str], number: int = 2 * THREADS) -> None:
    """Wait until the threads have read everything again."""
    target = seen["sweeps"] + number
    deadline = time.monotonic() + 60
    while seen["sweeps"] < target:
        assert time.monotonic() < deadline, "the readers are stuck"
        time.sleep(0.01)


def all_open(secret: str) -> bool:
    """Tell whether all entries are sealed under this secret."""
    runtime, ring = Sealed()._runtime, KeyRing([secret])
    for key in KEYS:
        address = runtime.address((key,), {})
        raw = runtime.store.read(address.handle)[0]
        assert raw is not None, f"{key} is not stored"
        try:
            open_entry(raw, ring.opener(runtime.sealed_key(address.entry)))
        except EntryRejected:
            return False
    return True


def check_rotation(shelf: Any, times: int) -> None:
    """Change the secret under readers: nothing is fetched for it; refreshes seal anew."""
    for key in KEYS:
        Sealed().get(key)
    assert all_open(FORMER)
    Sealed.fetched.clear()
    sealed = message_about(shelf, KEYS[0])
    with read_by_many() as seen:
        for number in range(times):
            more_sweeps(seen)
            with override_settings(SECRET_KEY=CURRENT, SECRET_KEY_FALLBACKS=[FORMER]):
                more_sweeps(seen)
                assert not Sealed.fetched, f"{Sealed.fetched.total()} keys were fetched again"
                if number < times - 1:
                    continue
                assert worker.run_sealed(sealed) == {"fetched": 1}, "a message was not obeyed"
                for key in KEYS[1:]:
                    Sealed().refresh(key)
                assert all_open(CURRENT), "a refresh has not sealed anew"
                before = Sealed.fetched.copy()
                assert before == Counter(KEYS)
                # The former secret may go as soon as every entry has been refreshed.
                with override_settings(SECRET_KEY_FALLBACKS=[]):
                    more_sweeps(seen)
                assert Sealed.fetched == before, "keys that were sealed anew were fetched again"
                break
            assert not Sealed.fetched


def check_lost_secret(shelf: Any) -> None:
    """Change the secret and forget the former: each key is a miss, and is fetched once."""
    for key in KEYS:
        Sealed().get(key)
    sealed = message_about(shelf, KEYS[0])
    Sealed.fetched.clear()
    with override_settings(SECRET_KEY=CURRENT, SECRET_KEY_FALLBACKS=[]):
        with heard(signals.refresh_dropped) as dropped:
            assert worker.run_sealed(sealed) == {"dropped": 1}
        assert [one["reason"] for one in dropped] == ["forged"]
        with read_by_many() as seen:
            more_sweeps(seen)
        assert Sealed.fetched == Counter(KEYS), "a key was not fetched just once"
        assert all_open(CURRENT)


def message_about(shelf: Any, key: str) -> str:
    """Return a message that asks for a refresh, sealed under the secret of this moment."""
    Sealed().refresh_later(key)
    sealed = seal_message(shelf.messages.pop().message, get_ring())
    Sealed.fetched.clear()
    return sealed


def test_a_changed_secret_costs_nothing(shelf: Any) -> None:
    check_rotation(shelf, count(2, 5))


def test_a_lost_secret_costs_one_fetch_a_key(shelf: Any) -> None:
    check_lost_secret(shelf)


# --- breaks -------------------------------------------------------------------------------------

_opener = KeyRing.opener


def _no_fallbacks(ring: KeyRing, key: str) -> Opener:
    made = _opener(ring, key)
    made.fallbacks, made.key_ids = (), made.key_ids[:1]
    return made


def _verify_first(ring: KeyRing, data: bytes, mac: bytes, purpose: bytes) -> bool:
    return ring.mac(data, purpose) == mac


@pytest.mark.faults
@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (
            Break("fallbacks are not tried", "async_cache.keyring.KeyRing.opener", _no_fallbacks),
            check_rotation,
        ),
        (
            Break("messages know one secret", "async_cache.keyring.KeyRing.verify", _verify_first),
            check_rotation,
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, Break) else value.__name__,
)
def test_the_checks_notice(shelf: Any, broken: Break, check: Callable[[Any, int], None]) -> None:
    caught(broken, lambda: check(shelf, 2))
