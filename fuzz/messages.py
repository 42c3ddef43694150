"""The message parser: any text is rejected, what is sealed opens or is rejected; nothing else."""

from __future__ import annotations

import sys
from typing import Final

from fuzz.django_setup import set_up

set_up()

from async_cache.entry import KeyRing  # noqa: E402
from async_cache.exceptions import MessageRejected, UnkeyableArgument  # noqa: E402
from async_cache.messages import open_message, seal_message  # noqa: E402
from async_cache.results.messages import open_call, seal_call  # noqa: E402

RING: Final = KeyRing(["the current secret"])
REFRESH: Final = b"async_cache.message.1"
CALL: Final = b"async_cache.results.call.1"


def check(data: bytes) -> None:
    """Open a text as it is; then sealed, as only somebody with the secret can."""
    text = data.decode("latin-1")
    before = set(sys.modules)
    for parse in (open_message, open_call):
        for forged in (text, f"1.{'0' * 32}.{text}"):
            try:
                parse(forged, RING)
            except MessageRejected:
                continue
            raise AssertionError("a text that nobody has sealed opens")
    if set(sys.modules) != before:
        raise AssertionError("a text that nobody has sealed imports")
    if not text.isascii():
        return
    _check_refresh(f"1.{RING.mac(data, REFRESH).hex()}.{text}")
    _check_call(f"1.{RING.mac(data, CALL).hex()}.{text}")


def _check_refresh(sealed: str) -> None:
    try:
        message = open_message(sealed, RING, now=0.0)
        again = open_message(seal_message(message, RING), RING)
    except (MessageRejected, UnkeyableArgument):
        return
    if again.items != message.items and repr(again.items) != repr(message.items):
        raise AssertionError("what was opened and sealed again differs")


def _check_call(sealed: str) -> None:
    try:
        message = open_call(sealed, RING)
        again = open_call(seal_call(message, RING), RING)
    except (MessageRejected, UnkeyableArgument):
        return
    if again != message and repr(again) != repr(message):
        raise AssertionError("what was opened and sealed again differs")
