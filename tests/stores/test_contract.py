"""What every store promises, run over all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections

from async_cache.entry import STAMP_SIZE, new_stamp
from async_cache.stores.base import Claim, Claimed, Commit, Level, Outcome, Phase, Store

QUEUED, FETCHING = Phase.QUEUED, Phase.FETCHING
HARD, SOFT = "ac:job", "ac:soft"


def ask(token: bytes, phase: Phase = FETCHING, key: str = "k", **options: Any) -> Claim:
    defaults: dict[str, Any] = {
        "seconds": 60,
        "stamps": (HARD, SOFT),
        "stamp_life": 1000.0,
        "reads": (f"ac:{key}", f"ac:{key}:failure"),
        "soft_stamp": SOFT,
    }
    return Claim(
        lease=f"ac:{key}:l", token=token, phase=phase, trace=f"ac:{key}:t", life=600.0,
        **{**defaults, **options},
    )  # fmt: skip


def entry(token: bytes, value: bytes = b"value", key: str = "k", **options: Any) -> Commit:
    defaults: dict[str, Any] = {"puts": ((f"ac:{key}", value, 60.0),)}
    return Commit(
        lease=f"ac:{key}:l", token=token, trace=f"ac:{key}:t", **{**defaults, **options}
    )  # fmt: skip


def win(store: Store, *args: Any, **options: Any) -> Claimed:
    [claimed] = store.claim([ask(*args, **options)])
    assert claimed.won, claimed
    return claimed


def lose(store: Store, *args: Any, **options: Any) -> Claimed:
    [claimed] = store.claim([ask(*args, **options)])
    assert not claimed.won, claimed
    return claimed


def value(store: Store, name: str) -> bytes | None:
    return store.read(store.prepare([name]))[0]


def test_reads_keep_their_order_and_tell_what_is_missing(store: Store) -> None:
    store.put([("ac:a", b"\x00\r\n", 60), ("ac:b", b"B", 60)])
    handle = store.prepare(["ac:b", "ac:none", "ac:a"])
    assert store.read(handle) == [b"B", None, b"\x00\r\n"]
    assert store.read(handle) == [b"B", None, b"\x00\r\n"]
    assert store.read_many([store.prepare(["ac:a"]), handle]) == [
        [b"\x00\r\n"],
        [b"B", None, b"\x00\r\n"],
    ]
    assert store.read_many([]) == []


def test_large_values_travel_whole(store: Store) -> None:
    big = bytes(range(256)) * 3_000
    store.put([("ac:big", big, 60)])
    assert value(store, "ac:big") == big


def test_put_keeps_the_last_of_a_name_and_remove_drops(store: Store) -> None:
    store.put([("ac:a", b"1", 60), ("ac:a", b"2", 60)])
    assert value(store, "ac:a") == b"2"
    store.remove(["ac:a", "ac:none"])
    assert value(store, "ac:a") is None
    store.remove([])
    store.put([])


def test_a_put_ends(store: Store) -> None:
    store.put([("ac:a", b"1", 0.05)])
    deadline = time.monotonic() + 30
    while value(store, "ac:a") is not None:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_free_lease_is_won_with_stamps_and_reads(store: Store) -> None:
    store.put([("ac:k", b"old", 60)])
    claimed = win(store, b"a")
    assert claimed.attempts == 0
    assert claimed.values == (b"old", None)
    assert [len(stamp) for stamp in claimed.stamps] == [STAMP_SIZE] * 2
    assert claimed.stamps[0] != claimed.stamps[1]
    assert store.read(store.prepare([HARD, SOFT])) == list(claimed.stamps)
    [holder] = store.holders(["ac:k:l"])
    assert holder is not None
    assert (holder.token, holder.phase) == (b"a", FETCHING)


def test_stamps_that_exist_are_kept(store: Store) -> None:
    stamp = new_stamp()
    store.put([(HARD, stamp, 60)])
    assert win(store, b"a").stamps[0] == stamp


def test_a_damaged_stamp_is_replaced(store: Store) -> None:
    store.put([(HARD, b"short", 60)])
    stamp = win(store, b"a").stamps[0]
    assert len(stamp) == STAMP_SIZE
    assert value(store, HARD) == stamp


@pytest.mark.parametrize("held", [QUEUED, FETCHING])
@pytest.mark.parametrize("wanted", [QUEUED, FETCHING])
def test_only_a_fetch_takes_over_and_only_what_is_queued(
    store: Store, held: Phase, wanted: Phase
) -> None:
    store.put([("ac:k", b"old", 60)])
    win(store, b"a", held)
    if (held, wanted) == (QUEUED, FETCHING):
        win(store, b"b", wanted)
        assert store.commit([entry(b"a")]) == [Outcome.LOST]
        return
    claimed = lose(store, b"b", wanted)
    assert claimed.holder is not None
    assert (claimed.holder.token, claimed.holder.phase) == (b"a", held)
    assert claimed.values == (b"old", None)
    assert claimed.stamps == ()


@pytest.mark.parametrize("phase", [QUEUED, FETCHING])
def test_asking_twice_under_one_token_is_asking_once(store: Store, phase: Phase) -> None:
    first = win(store, b"a", phase)
    second = win(store, b"a", phase)
    assert second.attempts == 0
    assert second.stamps == tuple(store.read(store.prepare([HARD, SOFT])))
    assert second.stamps[0] == first.stamps[0]


def test_a_commit_writes_removes_and_gives_back(store: Store) -> None:
    store.put([("ac:k:failure", b"F", 60)])
    claimed = win(store, b"a")
    commit = entry(
        b"a",
        puts=(("ac:hard", b"H", 60.0), ("ac:k", b"value", 60.0)),
        expect=((HARD, claimed.stamps[0]),),
        extend=((HARD, 2000.0), ("ac:none", 10.0)),
        removes=("ac:k:failure",),
    )
    assert store.commit([commit]) == [Outcome.COMMITTED]
    names = ["ac:hard", "ac:k", "ac:k:failure", "ac:none"]
    assert store.read(store.prepare(names)) == [b"H", b"value", None, None]
    assert store.holders(["ac:k:l"]) == [None]
    assert win(store, b"b", QUEUED).attempts == 0


def test_a_lost_lease_writes_nothing(store: Store, expire: Callable[[str], None]) -> None:
    win(store, b"a")
    expire("ac:k:l")
    win(store, b"b")
    assert store.commit([entry(b"a")]) == [Outcome.LOST]
    assert value(store, "ac:k") is None
    [holder] = store.holders(["ac:k:l"])
    assert holder is not None
    assert holder.token == b"b"
    assert store.commit([entry(b"b", b"B")]) == [Outcome.COMMITTED]


def test_a_moved_hard_stamp_refuses_and_gives_back(store: Store) -> None:
    claimed = win(store, b"a")
    store.put([(HARD, new_stamp(), 60)])
    commit = entry(b"a", expect=((HARD, claimed.stamps[0]),))
    assert store.commit([commit]) == [Outcome.OVERTAKEN]
    assert value(store, "ac:k") is None
    win(store, b"b")


def test_an_unconditional_commit_needs_no_lease_and_takes_none(store: Store) -> None:
    win(store, b"a")
    commit = Commit(None, b"", "ac:k:t", (("ac:hard", b"H", 60.0), ("ac:k", b"set", 60.0)))
    assert store.commit([commit]) == [Outcome.COMMITTED]
    assert store.read(store.prepare(["ac:hard", "ac:k"])) == [b"H", b"set"]
    assert store.renew([("ac:k:l", b"a", 60)]) == [True]


def test_dispatches_without_an_answer_are_counted_and_wait_longer(
    store: Store, expire: Callable[[str], None]
) -> None:
    for attempts in range(3):
        claimed = win(store, bytes([65 + attempts]), QUEUED)
        assert claimed.attempts == attempts
        assert claimed.holder is not None
        assert claimed.holder.attempts == attempts
        expire("ac:k:l")
    # The worker that comes at last, and then dies, is no dispatch without an answer.
    assert win(store, b"w").attempts == 2
    expire("ac:k:l")
    assert win(store, b"z", QUEUED).attempts == 2
    store.release([("ac:k:l", b"z", "ac:k:t")])
    assert win(store, b"y", QUEUED).attempts == 0


def test_a_doubled_lease_lasts_doubled(store: Store, expire: Callable[[str], None]) -> None:
    for token in (b"a", b"b", b"c", b"d", b"e", b"f"):
        win(store, token, QUEUED)
        expire("ac:k:l")
    win(store, b"g", QUEUED, seconds=0.5)
    time.sleep(1.2)
    assert lose(store, b"h", QUEUED, seconds=0.5).holder is not None


def test_a_lease_ends_by_itself(store: Store) -> None:
    win(store, b"a", seconds=0.05)
    deadline = time.monotonic() + 30
    while store.holders(["ac:k:l"]) != [None]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    win(store, b"b")
    assert store.renew([("ac:k:l", b"a", 60)]) == [False]


def test_renewing_makes_a_lease_last(store: Store) -> None:
    win(store, b"a", seconds=0.5)
    assert store.renew([("ac:k:l", b"a", 60), ("ac:k:l", b"b", 60)]) == [True, False]
    time.sleep(1.1)
    lose(store, b"b")
    assert store.renew([]) == []


@pytest.mark.parametrize("phase", [QUEUED, FETCHING])
def test_a_lease_is_given_back_by_its_holder_only(store: Store, phase: Phase) -> None:
    win(store, b"a", phase)
    store.release([("ac:k:l", b"b", "ac:k:t")])
    lose(store, b"c", QUEUED)
    store.release([("ac:k:l", b"a", "ac:k:t")])
    assert store.holders(["ac:k:l"]) == [None]
    win(store, b"c", QUEUED)
    store.release([])


def test_a_job_has_no_more_keys_than_it_may(store: Store) -> None:
    cap: dict[str, Any] = {"members": "ac:members", "max_members": 2}
    for key in ("x", "y"):
        win(store, b"a", key=key, member=key, **cap)
        commit = entry(b"a", key=key, member=key, puts=((f"ac:{key}", b"v", 60.0),), **cap)
        assert store.commit([commit]) == [Outcome.COMMITTED]
    store.put([("ac:z", b"old", 60)])
    claimed = lose(store, b"a", key="z", member="z", **cap)
    assert claimed.full
    assert claimed.values == (b"old", None)
    # Two claims may both have met the last free place.
    win(store, b"a", key="z", member="z")
    assert store.commit([entry(b"a", key="z", member="z", **cap)]) == [Outcome.FULL]
    assert store.holders(["ac:z:l"]) == [None]
    win(store, b"b", key="x", member="x", **cap)


def test_a_message_takes_a_place_while_it_waits(store: Store) -> None:
    cap: dict[str, Any] = {"members": "ac:members", "max_members": 1}
    win(store, b"a", QUEUED, key="x", member="x", seconds=0.3, **cap)
    assert lose(store, b"b", QUEUED, key="y", member="y", **cap).full
    win(store, b"a", key="x", member="x", **cap)
    deadline = time.monotonic() + 30
    while store.claim([ask(b"b", key="y", member="y", **cap)])[0].full:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_keys_that_ended_make_room(store: Store) -> None:
    cap: dict[str, Any] = {"members": "ac:members", "max_members": 1}
    win(store, b"a", member="k", **cap)
    store.commit([entry(b"a", member="k", puts=(("ac:k", b"v", 0.05),), **cap)])
    deadline = time.monotonic() + 30
    while store.claim([ask(b"b", key="x", member="x", **cap)])[0].full:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_claims_and_commits_come_in_batches(store: Store) -> None:
    win(store, b"other", key="3")
    keys = [str(i) for i in range(8)]
    claims = store.claim([ask(b"t%d" % i, QUEUED, key=key) for i, key in enumerate(keys)])
    assert [c.won for c in claims] == [key != "3" for key in keys]
    claims = store.claim([ask(b"t%d" % i, key=key) for i, key in enumerate(keys)])
    assert [c.won for c in claims] == [key != "3" for key in keys]
    assert len({c.stamps for c in claims if c.won}) == 1
    outcomes = store.commit([entry(b"t%d" % i, b"%d" % i, key) for i, key in enumerate(keys)])
    assert outcomes == [Outcome.LOST if key == "3" else Outcome.COMMITTED for key in keys]
    found = store.read(store.prepare([f"ac:{key}" for key in keys]))
    assert found == [None if i == 3 else b"%d" % i for i in range(8)]
    assert store.claim([]) == []
    assert store.commit([]) == []


def test_one_token_may_claim_many_keys(store: Store) -> None:
    claims = store.claim([ask(b"t", QUEUED, key=key) for key in "abc"])
    assert [(c.won, c.attempts) for c in claims] == [(True, 0)] * 3


@pytest.mark.parametrize("phase", [QUEUED, FETCHING])
def test_of_many_claims_one_wins(store: Store, phase: Phase) -> None:
    if not store.elects or type(store).__name__ == "Blocking":
        pytest.skip("cannot elect, or has threads of its own")
    rounds, racers = 20, 8
    barrier = threading.Barrier(racers)
    won: list[int] = []

    def race(me: int) -> None:
        try:
            for turn in range(rounds):
                barrier.wait(30)
                if store.claim([ask(b"r%d" % me, phase, key=f"k{turn}")])[0].won:
                    won.append(turn)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=race, args=(i,)) for i in range(racers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == list(range(rounds))


def refuses(store: Store, soft: bytes) -> bool:
    """Whether a reader would call an entry with this soft stamp stale."""
    return value(store, SOFT) != soft


def test_what_a_straggler_writes_is_not_taken_for_fresh(
    store: Store, expire: Callable[[str], None]
) -> None:
    if store.level is Level.FENCED:
        pytest.skip("a straggler writes nothing at all")
    straggler = win(store, b"a").stamps[1]
    expire("ac:k:l")
    successor = win(store, b"b").stamps[1]
    assert refuses(store, straggler)
    assert not refuses(store, successor)
    assert store.commit([entry(b"b")]) == [Outcome.COMMITTED]
    assert not refuses(store, successor)


def test_a_dispatch_between_does_not_hide_a_straggler(
    store: Store, expire: Callable[[str], None]
) -> None:
    if store.level is Level.FENCED:
        pytest.skip("a straggler writes nothing at all")
    straggler = win(store, b"a").stamps[1]
    expire("ac:k:l")
    win(store, b"q", QUEUED)
    assert not refuses(store, win(store, b"b").stamps[1])
    assert refuses(store, straggler)


def test_a_straggler_that_gives_up_does_not_hide_another(
    store: Store, expire: Callable[[str], None]
) -> None:
    if store.level is Level.FENCED:
        pytest.skip("a straggler writes nothing at all")
    win(store, b"a")
    expire("ac:k:l")
    second = win(store, b"b").stamps[1]
    assert store.commit([entry(b"a")]) == [Outcome.LOST]
    expire("ac:k:l")
    win(store, b"c")
    assert refuses(store, second)


def test_who_ended_is_no_straggler(store: Store) -> None:
    stamps = win(store, b"a").stamps
    assert store.commit([entry(b"a")]) == [Outcome.COMMITTED]
    assert win(store, b"b").stamps == stamps
    store.release([("ac:k:l", b"b", "ac:k:t")])
    assert win(store, b"c").stamps == stamps


def test_a_damaged_lease_is_nobodys(store: Store) -> None:
    store.put([("ac:k:l", b"no lease at all", 60)])
    assert store.holders(["ac:k:l"]) == [None]
    assert store.renew([("ac:k:l", b"a", 60)]) == [False]
    win(store, b"a")
    assert store.commit([entry(b"a")]) == [Outcome.COMMITTED]
