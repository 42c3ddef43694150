"""The sealed envelope of a cached value: pure Python, no Django.

An entry is ``mac | fixed header | stamps | meta | payload``. One MAC covers all that follows it and
the full cache key, so an entry that was changed, cut, forged or moved to another key does not open.
The MAC is checked before anything is parsed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from enum import Enum
from hmac import compare_digest
from struct import Struct
from typing import Final, NamedTuple

from async_cache.exceptions import EntryRejected, UnstorableValue
from async_cache.keyring import MAC_SIZE, KeyRing, Opener

__all__ = [
    "BORN_STALE",
    "COMPRESSED",
    "ENTRY_ID_SIZE",
    "MAC_SIZE",
    "MISSING",
    "NEGATIVE",
    "STAMP_SIZE",
    "Header",
    "KeyRing",
    "Missing",
    "Opener",
    "Status",
    "new_entry_id",
    "new_header",
    "new_stamp",
    "open_entry",
    "seal",
]

STAMP_SIZE: Final = 12
"""Bytes of a stamp."""
ENTRY_ID_SIZE: Final = 8
"""Bytes of an entry id."""

NEGATIVE: Final = 1
"""Header flag: the payload is a "does not exist" answer."""
COMPRESSED: Final = 2
"""Header flag: the payload is compressed with zlib."""
BORN_STALE: Final = 4
"""Header flag: a soft stamp moved during the fetch; the entry is stale from the start."""

# Magic and format version in one field: a format of another version does not open.
_FORMAT: Final = b"AC\x01"
# format, key id, flags, codec, number of stamps, size of meta, entry id, fetch started,
# fresh until, dead at, fetch seconds; little-endian on every machine.
_FIXED: Final = Struct("<3sBBBHI8sdddd")
_KEY_ID_AT: Final = MAC_SIZE + len(_FORMAT)
_BODY_AT: Final = MAC_SIZE + _FIXED.size
_MAX_STAMPS: Final = 0xFFFF
_META: Final = {str, type(None)}


class Missing(Enum):
    """The type of `MISSING`."""

    MISSING = "missing"

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = Missing.MISSING
"""No value: falsy, and one object through pickle and copy; never None, which is a value."""


class Status(Enum):
    """What a read found."""

    FRESH = "fresh"
    STALE = "stale"
    MISS = "miss"


class Header(NamedTuple):
    """What an entry says about its payload. Times are wall-clock seconds.

    Make one with `new_header`. What ``meta`` holds is decoded when it is asked for, and raises
    `EntryRejected` where that cannot be.

    Attributes:
        entry_id: `ENTRY_ID_SIZE` random bytes.
        flags: `NEGATIVE`, `COMPRESSED` and `BORN_STALE`, or-ed.
        codec: Number of the serializer.
        fetch_started: When the fetch began; age counts from here.
        fresh_until: End of ttl; infinite when the value never turns stale.
        dead_at: End of ttl and grace.
        fetch_seconds: How long the fetch took.
        stamps: The stamps seen before the fetch, concatenated.
        payload_at: Where the payload begins; 0 in a header not read from an entry.
        meta: Encoded tags, etag, last-modified and codec name; empty when there are none.
    """

    entry_id: bytes
    flags: int
    codec: int
    fetch_started: float
    fresh_until: float
    dead_at: float
    fetch_seconds: float
    stamps: bytes
    payload_at: int = 0
    meta: bytes = b""

    @property
    def tags(self) -> tuple[str, ...]:
        """Names of the tags whose stamps follow the job's and the key's, in their order."""
        return tuple(tag for tag in self._decoded()[3:] if tag is not None)

    @property
    def etag(self) -> str | None:
        """What `ctx.etag` was set to by the fetch."""
        return self._decoded()[1]

    @property
    def last_modified(self) -> str | None:
        """What `ctx.last_modified` was set to by the fetch."""
        return self._decoded()[2]

    @property
    def codec_name(self) -> str | None:
        """Dotted path of a serializer that is not built in."""
        return self._decoded()[0]

    def _decoded(self) -> list[str | None]:
        # Decoded on demand: most entries have none, and a hit with intact stamps needs no names.
        if not self.meta:
            return [None, None, None]
        try:
            decoded = json.loads(self.meta)
        except (ValueError, RecursionError) as error:
            raise EntryRejected("sealed here, but what it says of its value is no JSON") from error
        if type(decoded) is not list or len(decoded) < 3 or not set(map(type, decoded)) <= _META:
            raise EntryRejected("sealed here, but it says something else of its value")
        return decoded


def new_stamp() -> bytes:
    """Return a random stamp."""
    return os.urandom(STAMP_SIZE)


def new_entry_id() -> bytes:
    """Return a random entry id."""
    return os.urandom(ENTRY_ID_SIZE)


def new_header(
    *,
    entry_id: bytes,
    codec: int,
    fetch_started: float,
    fresh_until: float,
    dead_at: float,
    fetch_seconds: float,
    stamps: bytes,
    flags: int = 0,
    tags: Sequence[str] = (),
    etag: str | None = None,
    last_modified: str | None = None,
    codec_name: str | None = None,
) -> Header:
    """Return a header for `seal`; the attributes are those of `Header`."""
    meta = b""
    if tags or etag is not None or last_modified is not None or codec_name is not None:
        meta = json.dumps([codec_name, etag, last_modified, *tags], separators=(",", ":")).encode()
    return Header(
        entry_id,
        flags,
        codec,
        fetch_started,
        fresh_until,
        dead_at,
        fetch_seconds,
        stamps,
        0,
        meta,
    )


def seal(header: Header, payload: bytes, key: str, ring: KeyRing) -> bytes:
    """Return the bytes to store under ``key``.

    Args:
        header: Its ``payload_at`` is not looked at.
        payload: What the serializer made.
        key: The full cache key; the entry opens under no other.
        ring: Its current secret seals.

    Raises:
        UnstorableValue: More tags than an entry can name.
    """
    count, rest = divmod(len(header.stamps), STAMP_SIZE)
    if rest:
        raise ValueError(f"stamps are {STAMP_SIZE} bytes each, got {len(header.stamps)} bytes")
    if count > _MAX_STAMPS:
        raise UnstorableValue(
            f"An entry can hold {_MAX_STAMPS} stamps, not {count}: use fewer tags."
        )
    if len(header.entry_id) != ENTRY_ID_SIZE:
        raise ValueError(f"an entry id is {ENTRY_ID_SIZE} bytes, got {len(header.entry_id)}")
    fixed = _FIXED.pack(
        _FORMAT,
        ring.key_id,
        header.flags,
        header.codec,
        count,
        len(header.meta),
        header.entry_id,
        header.fetch_started,
        header.fresh_until,
        header.dead_at,
        header.fetch_seconds,
    )
    body = b"".join((fixed, header.stamps, header.meta, payload))
    return ring.entry_mac(body, key) + body


def open_entry(raw: object, opener: Opener) -> Header:
    """Check the seal of stored bytes and return their header.

    Args:
        raw: What the store returned; anything but intact bytes is refused.
        opener: From `KeyRing.opener` of the cache key it was read from.

    Raises:
        EntryRejected: Corrupt, truncated, foreign, forged, moved or of another format.
    """
    if type(raw) is not bytes:
        raise EntryRejected(f"not an entry: {type(raw).__qualname__} in place of bytes")
    state = opener.copy()
    state.update(raw[MAC_SIZE:])
    if not compare_digest(state.digest(), raw[:MAC_SIZE]):
        _try_fallbacks(raw, opener)
    if len(raw) < _BODY_AT:
        raise EntryRejected("sealed here, but shorter than a header")
    (
        format_,
        _,
        flags,
        codec,
        count,
        meta_size,
        entry_id,
        fetch_started,
        fresh_until,
        dead_at,
        fetch_seconds,
    ) = _FIXED.unpack_from(raw, MAC_SIZE)
    if format_ != _FORMAT:
        raise EntryRejected(f"sealed here, but in another format: {format_!r}")
    meta_at = _BODY_AT + count * STAMP_SIZE
    payload_at = meta_at + meta_size
    if payload_at > len(raw):
        raise EntryRejected("sealed here, but shorter than its header says")
    # tuple.__new__ skips the named tuple's own constructor, which costs more than the rest.
    return tuple.__new__(
        Header,
        (
            entry_id,
            flags,
            codec,
            fetch_started,
            fresh_until,
            dead_at,
            fetch_seconds,
            raw[_BODY_AT:meta_at],
            payload_at,
            raw[meta_at:payload_at],
        ),
    )


def _try_fallbacks(raw: bytes, opener: Opener) -> None:
    for fallback in opener.fallbacks:
        state = fallback.copy()
        state.update(raw[MAC_SIZE:])
        if compare_digest(state.digest(), raw[:MAC_SIZE]):
            return
    if len(raw) < _BODY_AT or raw[MAC_SIZE:_KEY_ID_AT] != _FORMAT:
        raise EntryRejected("not an entry, or one of another format, or cut short")
    if raw[_KEY_ID_AT] not in opener.key_ids:
        raise EntryRejected(
            "sealed under a secret this process does not have: set the same SECRET_KEY everywhere,"
            " and keep the former one in SECRET_KEY_FALLBACKS"
        )
    raise EntryRejected("the seal does not match: changed, forged, or stored under another key")
