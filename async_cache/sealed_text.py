"""JSON as authenticated text, which any serializer carries. Pure.

The text is ``1.<mac in hex>.<JSON>``. The MAC is checked before anything else is read: what was
not sealed under the project's secrets is never parsed, imports nothing and asks no database.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from async_cache.exceptions import MessageRejected, UnkeyableArgument
from async_cache.keyring import KeyRing

__all__ = ["MAX_SIZE", "open_text", "seal_text"]

MAX_SIZE: Final = 256 * 1024
"""Bytes of a sealed text, at most."""

_SEALED: Final = re.compile(r"1\.([0-9a-f]{32})\.(\{.*\})", re.ASCII | re.DOTALL)


def seal_text(fields: dict[str, Any], ring: KeyRing, purpose: bytes, subject: str) -> str:
    """Return fields as authenticated ASCII text.

    Args:
        fields: What `json.dumps` takes.
        ring: Its current secret seals.
        purpose: Keeps texts of one kind from being opened as another.
        subject: What the text is about, for the error.

    Raises:
        UnkeyableArgument: The text is too large.
    """
    body = json.dumps(fields, separators=(",", ":"), allow_nan=False)
    text = f"1.{ring.mac(body.encode('ascii'), purpose).hex()}.{body}"
    if len(text) > MAX_SIZE:
        raise UnkeyableArgument(
            f"{subject} make a message of {len(text)} bytes, more than {MAX_SIZE}; pass what "
            "identifies large values"
        )
    return text


def open_text(text: object, ring: KeyRing, purpose: bytes) -> Any:
    """Return the fields behind sealed text.

    Raises:
        MessageRejected: The text is not ours.
        ValueError: It was sealed here and is no JSON.
    """
    if not isinstance(text, str) or len(text) > MAX_SIZE or not text.isascii():
        raise MessageRejected(
            "The message is no text, is too large, or is not ours.", reason="forged"
        )
    match = _SEALED.fullmatch(text)
    if match is None:
        raise MessageRejected("The message has another format, or is damaged.", reason="forged")
    mac, body = match.groups()
    if not ring.verify(body.encode("ascii"), bytes.fromhex(mac), purpose):
        raise MessageRejected(
            "The seal of the message does not fit: it was altered, or sender and worker have "
            "different SECRET_KEYs (see SECRET_KEY_FALLBACKS).",
            reason="forged",
        )
    return json.loads(body)
