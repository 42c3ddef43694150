"""The entry parser: any bytes are a miss, and what is sealed opens or is a miss."""

from __future__ import annotations

from typing import Final

from fuzz.django_setup import set_up

set_up()

from async_cache.entry import (  # noqa: E402
    MAC_SIZE,
    NEGATIVE,
    Header,
    KeyRing,
    open_entry,
)
from async_cache.exceptions import EntryRejected  # noqa: E402
from async_cache.policy import decide  # noqa: E402
from async_cache.serializers import load_value  # noqa: E402

KEY: Final = "ac:fuzz:1:" + "a" * 32
RING: Final = KeyRing(["the current secret", "the former one"])
OPENER: Final = RING.opener(KEY)
LIMIT: Final = 1 << 16
PICKLE: Final = 0


def check(data: bytes) -> None:
    """Open bytes as they are; then sealed, as those of another release are."""
    for forged in (data, bytes(MAC_SIZE) + data):
        try:
            open_entry(forged, OPENER)
        except EntryRejected:
            continue
        raise AssertionError("bytes that nobody has sealed open")
    raw = RING.entry_mac(data, KEY) + data
    try:
        header = open_entry(raw, OPENER)
        _use(header, raw)
    except EntryRejected:
        return
    if raw[MAC_SIZE:] != data:
        raise AssertionError("another entry opens")


def _use(header: Header, raw: bytes) -> None:
    """Ask for all that a reader asks for; what is pickled and sealed is trusted, so left alone."""
    for tag in header.tags:
        if not isinstance(tag, str):
            raise AssertionError("a tag is no text")
    for text in (header.etag, header.last_modified, header.codec_name):
        if not isinstance(text, str | None):
            raise AssertionError("a text of the header is none")
    decide(header, [b"a" * 12] * (len(header.stamps) // 12), 1_700_000_000.0)
    if header.codec != PICKLE and not header.flags & NEGATIVE:
        value = load_value(raw, header, LIMIT)
        if isinstance(value, str | list | dict) and len(value) > LIMIT:
            raise AssertionError("a value larger than the cap")
