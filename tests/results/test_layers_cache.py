"""What the layer over Django's caches does when a process is killed or held up in between."""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.core.cache import caches

from async_cache.exceptions import StoreUnavailable
from async_cache.results.layers import get_cache_layer
from async_cache.results.layers.cache import CacheLayer
from async_cache.results.layers.versions import NOWHERE
from async_cache.results.records import NO_RECORD, Outcome, Record
from async_cache.results.sealed import dump_record
from async_cache.stores.django import DjangoStore
from async_cache.testing import freeze
from tests.results.test_layers import failure, ids, stored, success


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def layer() -> CacheLayer:
    layer = get_cache_layer("default")
    assert isinstance(layer, CacheLayer)
    return layer


def killed_at(monkeypatch: pytest.MonkeyPatch, method: str, nth: int) -> None:
    """End the process before the nth call of a store's method."""
    real, count = getattr(DjangoStore, method), 0

    def call(self: DjangoStore, *args: Any) -> Any:
        nonlocal count
        count += 1
        if count == nth:
            raise Killed
        return real(self, *args)

    monkeypatch.setattr(DjangoStore, method, call)


@pytest.mark.parametrize(
    ("method", "nth", "written"),
    [("add", 1, False), ("add", 2, False), ("add", 3, False), ("set_many", 1, True)],
)
def test_killed_in_a_save(
    layer: CacheLayer, monkeypatch: pytest.MonkeyPatch, method: str, nth: int, written: bool
) -> None:
    """Killed before the label, the slot, the record, or the count of it is written."""
    with monkeypatch.context() as patch:
        killed_at(patch, method, nth)
        with pytest.raises(Killed):
            layer.save(success("a", 1, group="g", sequence=1))
    assert layer.count("g") == (int(written), 0)
    assert ids(layer.group("g")) == (["a"] if written else [])
    # Delivered again.
    assert layer.save(success("a", 1, group="g", sequence=1))
    assert layer.save(success("b", 1, group="g", sequence=2))
    assert layer.count("g") == (2, 0)
    assert ids(layer.group("g")) == ["a", "b"]
    assert layer.delete_group("g") == 2


def test_who_is_held_up_before_the_write_cannot_undo_later_ones(layer: CacheLayer) -> None:
    key = layer._key("a")
    [before] = layer._chains.highest([key])
    sealed = dump_record(Record("a", state="STARTED"), _opener())
    for state in ("STARTED", "RETRY", "SUCCESS"):
        assert layer.save(Record("a", state=state))
    assert not layer._chains.extend(key, before, NOWHERE, sealed, 60)
    assert stored(layer, "a").state == "SUCCESS"


def _opener() -> Any:
    from async_cache.results.codec import record_opener

    return record_opener()


def test_a_slot_says_in_the_end_what_the_record_says(
    layer: CacheLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure's slot is written after that of the success that overtook it."""
    layer.save(Record("a", state="STARTED", group="g"))
    real = DjangoStore.set_many

    def overtaken(self: DjangoStore, *args: Any) -> None:
        monkeypatch.setattr(DjangoStore, "set_many", real)
        assert layer.save(success("a", 1, group="g"))
        real(self, *args)

    monkeypatch.setattr(DjangoStore, "set_many", overtaken)
    assert layer.save(failure("a", group="g"))
    [page] = list(layer._slots.pages(layer._slots.generation("g")))
    assert page == {"a": Outcome.SUCCEEDED}
    assert layer.count("g") == (1, 0)


def test_a_slot_taken_for_nothing_is_given_back(
    layer: CacheLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another save of the task comes between the slot and the record, and wins or loses."""
    real = DjangoStore.add
    for task_id, late, accepted in (("a", success("a", 2), True), ("b", failure("b"), False)):

        def overtaken(self: DjangoStore, name: str, *args: Any, task_id: str = task_id) -> bool:
            if name.endswith(f"{task_id}.0"):
                monkeypatch.setattr(DjangoStore, "add", real)
                assert layer.save(success(task_id, 1, group="g"))
            return real(self, name, *args)

        monkeypatch.setattr(DjangoStore, "add", overtaken)
        assert layer.save(late.replace(group="g")) is accepted
    slots = layer._slots._read(layer._slots.generation("g"), range(50))
    assert sorted(slots.values()) == [b"sa", b"sb"]


def test_of_two_slots_the_one_that_says_more_counts(layer: CacheLayer) -> None:
    layer.save(success("a", 1, group="g"))
    generation = layer._slots.generation("g")
    layer._slots.take("g", generation, "a", 60)
    assert list(layer._slots.pages(generation)) == [{"a": Outcome.SUCCEEDED}]
    assert layer.count("g") == (1, 0)


def test_what_was_replaced_takes_no_room(layer: CacheLayer) -> None:
    for state in ("STARTED", "RETRY", "FAILURE"):
        layer.save(Record("a", state=state, traceback="x" * 1_000))
    sizes = [len(caches["default"].get(f"ac:-r:a.{number}")) for number in range(3)]
    assert sizes[:2] == [0, 0]
    assert sizes[2] > 1_000


def test_the_last_save_says_how_long_many_versions_live(layer: CacheLayer) -> None:
    for step in range(10):
        layer.save(Record("a", state="PROGRESS", meta=str(step)), 0.3)
    assert layer.save(Record("a", state="PROGRESS", meta="last"), 60)
    deadline = time.monotonic() + 10
    while caches["default"].get("ac:-r:a.8") is not None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert stored(layer, "a").meta == "last"


def test_a_late_member_makes_the_label_last(layer: CacheLayer, settings: Any) -> None:
    settings.ASYNC_CACHE = {"MAX_LIFETIME": 0.3}
    layer.save(success("a", 1, group="g"), 0.1)
    layer.save(success("b", 1, group="g"), 60)
    deadline = time.monotonic() + 0.4
    while time.monotonic() < deadline:
        time.sleep(0.02)
    assert ids(layer.group("g")) == ["b"]


def test_the_record_of_another_group_is_no_member(layer: CacheLayer) -> None:
    layer.save(success("a", 1, group="g"))
    layer.save(success("theirs", 1, group="h"))
    generation = layer._slots.generation("g")
    place = layer._slots.take("g", generation, "theirs", 60)
    key = "ac:-r:theirs.0"
    head = bytes.fromhex(generation) + place.slot.to_bytes(4, "big")
    caches["default"].set(key, head + caches["default"].get(key)[12:])
    assert ids(layer.group("g")) == ["a"]


def test_another_process_goes_on_where_the_slots_end(layer: CacheLayer) -> None:
    for i in range(200):
        layer.save(success(f"a{i}", group="g", sequence=i))
    other = CacheLayer("default", "ac", 60)
    for i in range(200, 250):
        other.save(success(f"a{i}", group="g", sequence=i))
        layer.save(success(f"b{i}", group="g", sequence=i))
    for reader in (layer, other, CacheLayer("default", "ac", 60)):
        assert reader.count("g") == (300, 0)
        assert len(reader.group("g")) == 300


def test_slots_are_found_after_many_were_left(layer: CacheLayer) -> None:
    for i in range(300):
        layer.save(success(f"a{i}", group="g"))
    for i in range(290):
        layer.forget(f"a{i}")
    assert CacheLayer("default", "ac", 60).count("g") == (10, 0)
    assert layer.save(success("b", group="g"))
    assert layer.count("g") == (11, 0)


def test_sequences_do_not_go_back_with_the_clock(layer: CacheLayer) -> None:
    with freeze() as clock:
        first = layer.reserve("g")
        clock.move_to(clock.now() - 60)
        assert layer.reserve("g", 3) == first + 1
        assert layer.reserve("g") == first + 4


def test_a_foreign_value_under_our_key_is_no_record(layer: CacheLayer) -> None:
    caches["default"].set("ac:-r:a.0", {"not": "ours"})
    caches["default"].set("ac:-g:g", "text")
    assert layer.get("a") is NO_RECORD
    assert layer.group("g") == []
    assert layer.save(success("a", 1))
    assert stored(layer, "a").successful


def test_a_record_larger_than_memcached_takes(memcached_cache: Any) -> None:
    layer = get_cache_layer("memcached")
    with pytest.raises(StoreUnavailable):
        layer.save(Record("a", state="SUCCESS", value=b"x" * 3_000_000))
    assert layer.save(Record("a", state="SUCCESS", value=b"x" * 500_000))
