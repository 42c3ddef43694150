"""Entries open exactly where they were sealed, and nothing else opens."""

from __future__ import annotations

import copy
import math
import pickle
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_cache.entry import (
    BORN_STALE,
    MISSING,
    NEGATIVE,
    STAMP_SIZE,
    Header,
    KeyRing,
    new_entry_id,
    new_header,
    new_stamp,
    open_entry,
    seal,
)
from async_cache.exceptions import ConfigurationError, EntryRejected

KEY = "ac:shop.jobs.UserTweets:1:abcdefghij"
RING = KeyRing(["current secret", "former secret"])


def header(**changes: Any) -> Header:
    values: dict[str, Any] = {
        "entry_id": b"12345678",
        "codec": 0,
        "fetch_started": 1_700_000_000.5,
        "fresh_until": 1_700_000_060.5,
        "dead_at": 1_700_086_460.5,
        "fetch_seconds": 0.25,
        "stamps": b"a" * STAMP_SIZE + b"b" * STAMP_SIZE + b"c" * STAMP_SIZE,
    }
    return new_header(**{**values, **changes})


def reopened(raw: object, key: str = KEY, ring: KeyRing = RING) -> Header:
    return open_entry(raw, ring.opener(key))


def rejected(raw: object, key: str = KEY, ring: KeyRing = RING) -> str:
    with pytest.raises(EntryRejected) as caught:
        reopened(raw, key, ring)
    return str(caught.value)


def test_the_layout_of_format_1_is_fixed() -> None:
    """A change here makes every stored entry a miss, and needs another format number."""
    raw = seal(header(tags=["news"], etag='"x"'), b"payload", KEY, RING)
    assert raw.hex() == (
        "904712edae2b1cf65da2fc3ae04b2c2c414301d4000003001a00000031323334"
        "3536373800002040fc54d9410000204ffc54d941000020af5055d94100000000"
        "0000d03f61616161616161616161616162626262626262626262626263636363"
        "63636363636363635b6e756c6c2c225c22785c22222c6e756c6c2c226e657773"
        "225d7061796c6f6164"
    )


@given(
    flags=st.integers(0, 255),
    codec=st.integers(0, 255),
    times=st.tuples(*[st.floats(allow_nan=False)] * 4),
    stamps=st.integers(0, 40),
    payload=st.binary(),
    key=st.text(),
    tags=st.lists(st.text(), max_size=5),
    etag=st.none() | st.text(),
    last_modified=st.none() | st.text(),
    codec_name=st.none() | st.text(),
)
def test_a_header_comes_back_as_it_was(
    flags: int,
    codec: int,
    times: tuple[float, float, float, float],
    stamps: int,
    payload: bytes,
    key: str,
    tags: list[str],
    etag: str | None,
    last_modified: str | None,
    codec_name: str | None,
) -> None:
    sealed = header(
        flags=flags,
        codec=codec,
        fetch_started=times[0],
        fresh_until=times[1],
        dead_at=times[2],
        fetch_seconds=times[3],
        stamps=b"s" * STAMP_SIZE * stamps,
        tags=tags,
        etag=etag,
        last_modified=last_modified,
        codec_name=codec_name,
    )
    raw = seal(sealed, payload, key, RING)
    opened = reopened(raw, key)
    assert opened._replace(payload_at=0) == sealed
    assert raw[opened.payload_at :] == payload
    assert opened.tags == tuple(tags)
    assert (opened.etag, opened.last_modified, opened.codec_name) == (
        etag,
        last_modified,
        codec_name,
    )


def test_a_value_that_never_turns_stale_has_an_infinite_end() -> None:
    raw = seal(header(fresh_until=math.inf, flags=NEGATIVE | BORN_STALE), b"", KEY, RING)
    assert reopened(raw).fresh_until == math.inf
    assert reopened(raw).flags == NEGATIVE | BORN_STALE


def test_every_truncation_is_rejected() -> None:
    raw = seal(header(tags=["a"]), b"payload", KEY, RING)
    for length in range(len(raw)):
        rejected(raw[:length])
    rejected(raw + b"\0")


def test_every_flipped_bit_is_rejected() -> None:
    raw = seal(header(etag="x"), b"payload", KEY, RING)
    for position in range(len(raw)):
        for bit in range(8):
            changed = bytearray(raw)
            changed[position] ^= 1 << bit
            rejected(bytes(changed))


def foreign_bytes(source: random.Random, entries: list[tuple[str, bytes]]) -> bytes:
    """Return bytes that no opener of `KEY` may open: mutated, cut, spliced, moved or made up."""
    raw = bytearray(source.choice(entries)[1])
    other = source.choice(entries)[1]
    match source.randrange(7):
        case 0:
            for _ in range(source.randint(1, 20)):
                raw[source.randrange(len(raw))] = source.randrange(256)
        case 1:
            del raw[source.randrange(len(raw)) :]
        case 2:
            start = source.randrange(len(raw))
            del raw[start : start + source.randint(1, 30)]
        case 3:
            raw[source.randrange(len(raw)) : 0] = source.randbytes(source.randint(1, 30))
        case 4:
            cut = source.randrange(1, min(len(raw), len(other)))
            raw[cut:] = other[cut:]
        case 5:
            raw[:] = source.randbytes(source.randint(0, 300))
        case _:
            value = [1, "a", None, {"k": (1, 2)}, b"raw"]
            raw[:] = pickle.dumps(value, source.randint(0, 5)) * source.randint(1, 30)
    return bytes(raw)


def test_ten_thousand_bad_entries_raise_nothing_else_and_open_none() -> None:
    source = random.Random(20240601)
    entries = [
        (key, seal(header(entry_id=new_entry_id()), source.randbytes(size), key, ring))
        for key in (KEY, KEY + "2")
        for ring in (RING, KeyRing(["former secret"]), KeyRing(["another"]))
        for size in (0, 1, 100, 3000)
    ]
    whole = {raw for key, raw in entries if key == KEY}
    opener = RING.opener(KEY)
    opened = []
    for _ in range(10_000):
        raw = foreign_bytes(source, entries)
        try:
            open_entry(raw, opener)
        except EntryRejected:
            continue
        opened.append(raw)
    # A mutation may put back the byte that was there.
    assert whole.issuperset(opened)
    assert len(opened) < 100


@pytest.mark.parametrize("raw", [None, 1, "text", bytearray(b"x" * 200), [b"x"], {}, MISSING])
def test_what_is_not_bytes_is_rejected(raw: object) -> None:
    assert "in place of bytes" in rejected(raw)


def test_an_entry_moved_to_another_key_is_rejected() -> None:
    raw = seal(header(), b"bob's", KEY, RING)
    rejected(raw, KEY + "x")
    rejected(raw, KEY[:-1])
    # Moving the border between key and entry does not help.
    rejected(raw[:16] + KEY[-1:].encode() + raw[16:], KEY[:-1])


def test_fallback_secrets_open_and_the_current_one_seals() -> None:
    former = KeyRing(["former secret"])
    raw = seal(header(), b"payload", KEY, former)
    assert reopened(raw).entry_id == b"12345678"
    assert reopened(seal(header(), b"", KEY, RING)).entry_id == b"12345678"
    assert "SECRET_KEY" in rejected(seal(header(), b"", KEY, RING), ring=former)


def test_bytes_and_text_name_the_same_secret_and_the_salt_sets_rings_apart() -> None:
    raw = seal(header(), b"", KEY, RING)
    assert reopened(raw, ring=KeyRing([b"current secret"]))
    rejected(raw, ring=KeyRing(["current secret"], salt="another use"))


@pytest.mark.parametrize("secrets", [[], [""], ["", "former"]])
def test_without_a_current_secret_nothing_is_sealed(secrets: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="SECRET_KEY"):
        KeyRing(secrets)


def test_empty_fallbacks_open_nothing() -> None:
    ring = KeyRing(["current secret", ""])
    assert reopened(seal(header(), b"", KEY, ring), ring=ring)
    assert len(ring.opener(KEY).fallbacks) == 0


def resealed(body: bytes) -> bytes:
    return RING.entry_mac(body, KEY) + body


def test_another_format_does_not_open_even_when_sealed_here() -> None:
    body = seal(header(), b"payload", KEY, RING)[16:]
    assert body[:3] == b"AC\x01"
    assert reopened(resealed(body))
    for other in (b"AC\x00", b"AC\x02", b"XY\x01"):
        assert "another format" in rejected(resealed(other + body[3:]))


def test_a_sealed_body_shorter_than_it_says_is_rejected() -> None:
    body = seal(header(), b"", KEY, RING)[16:]
    assert "shorter" in rejected(resealed(body[:-1]))
    assert "shorter" in rejected(resealed(body[:20]))
    assert "shorter" in rejected(resealed(b""))


def test_macs_of_messages_are_bound_to_purpose_and_data() -> None:
    mac = RING.mac(b"data", b"message")
    assert len(mac) == 16
    assert RING.verify(b"data", mac, b"message")
    assert not RING.verify(b"datA", mac, b"message")
    assert not RING.verify(b"data", mac, b"other")
    assert not RING.verify(b"edata", RING.mac(b"data", b"message"), b"messag")
    assert not RING.verify(b"data", mac[:-1], b"message")
    assert not RING.verify(b"data", b"", b"message")
    assert RING.verify(b"data", KeyRing(["former secret"]).mac(b"data", b"message"), b"message")
    assert not KeyRing(["former secret"]).verify(b"data", mac, b"message")


def test_the_mac_of_a_message_is_never_that_of_an_entry() -> None:
    body = seal(header(), b"payload", KEY, RING)[16:]
    for purpose in (b"", b"ac.entry", KEY.encode()):
        rejected(RING.mac(body, purpose) + body)


def test_a_ring_shows_no_secret() -> None:
    assert "secret" not in repr(RING)
    assert "secret" not in repr(RING.opener(KEY))


def test_a_header_that_no_entry_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="stamps are"):
        seal(header(stamps=b"short"), b"", KEY, RING)
    with pytest.raises(ValueError, match="entry id"):
        seal(header(entry_id=b"short"), b"", KEY, RING)
    with pytest.raises(ValueError, match="fewer tags"):
        seal(header(stamps=bytes(STAMP_SIZE * 65_536)), b"", KEY, RING)


def test_ids_and_stamps_are_random() -> None:
    assert len({new_stamp() for _ in range(1000)}) == 1000
    assert len({new_entry_id() for _ in range(1000)}) == 1000
    assert len(new_stamp()) == STAMP_SIZE


def test_missing_is_falsy_and_one_object() -> None:
    assert not MISSING
    assert MISSING is not None
    assert repr(MISSING) == "MISSING"
    assert copy.copy(MISSING) is MISSING
    assert copy.deepcopy([MISSING])[0] is MISSING
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(MISSING, protocol)) is MISSING
    assert type(MISSING)("missing") is MISSING
