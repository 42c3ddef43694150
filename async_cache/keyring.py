"""The secrets that authenticate entries and messages: pure Python, no Django."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from hmac import compare_digest
from typing import Final, final

from async_cache.exceptions import ConfigurationError

__all__ = ["MAC_SIZE", "KeyRing", "Opener"]

MAC_SIZE: Final = 16
"""Bytes of a MAC."""


@final
class Opener:
    """Opens the entries of one cache key; made by `KeyRing.opener`, reusable and cheap to call."""

    __slots__ = ("copy", "fallbacks", "key_ids")

    def __init__(self, states: Sequence[blake2b], key_ids: bytes) -> None:
        self.copy = states[0].copy
        self.fallbacks = tuple(states[1:])
        self.key_ids = key_ids


@final
class KeyRing:
    """The secrets that seal and open: the first one seals, every one opens.

    Args:
        secrets: The current secret, then earlier ones. Empty fallbacks are left out.
        salt: Sets apart what two uses of the same secrets seal.

    Raises:
        ConfigurationError: The current secret is missing or empty.
    """

    __slots__ = ("_ids", "_keys")

    def __init__(self, secrets: Sequence[bytes | str], salt: bytes | str = b"async_cache") -> None:
        encoded = [s.encode() if isinstance(s, str) else bytes(s) for s in secrets]
        if not encoded or not encoded[0]:
            raise ConfigurationError("Entries cannot be sealed: set SECRET_KEY to a random text.")
        salted = _framed(salt.encode() if isinstance(salt, str) else salt)
        self._keys = [
            blake2b(salted + secret, digest_size=32, person=b"ac.key").digest()
            for secret in dict.fromkeys(filter(None, encoded))
        ]
        # Not secret: one byte that tells "sealed under a secret this process lacks" from damage.
        self._ids = bytes(
            blake2b(key=key, digest_size=1, person=b"ac.id").digest()[0] for key in self._keys
        )

    @property
    def key_id(self) -> int:
        """The byte that entries carry to name the secret that seals now."""
        return self._ids[0]

    def opener(self, key: str) -> Opener:
        """Return the prepared opener of the entries under a full cache key."""
        return Opener([_entry_state(secret, key) for secret in self._keys], self._ids)

    def mac(self, data: bytes, purpose: bytes) -> bytes:
        """Return `MAC_SIZE` bytes that authenticate ``data`` for one purpose."""
        return _purpose_mac(self._keys[0], data, purpose)

    def verify(self, data: bytes, mac: bytes, purpose: bytes) -> bool:
        """Say, in constant time, whether any secret made this MAC of ``data``."""
        return any(compare_digest(_purpose_mac(key, data, purpose), mac) for key in self._keys)

    def entry_mac(self, body: bytes, key: str) -> bytes:
        """Return the MAC of an entry's body under a full cache key."""
        state = _entry_state(self._keys[0], key)
        state.update(body)
        return state.digest()


def _framed(data: bytes) -> bytes:
    return len(data).to_bytes(8, "little") + data


def _entry_state(secret: bytes, key: str) -> blake2b:
    state = blake2b(digest_size=MAC_SIZE, key=secret, person=b"ac.entry")
    state.update(_framed(key.encode("utf-8", "surrogatepass")))
    return state


def _purpose_mac(secret: bytes, data: bytes, purpose: bytes) -> bytes:
    state = blake2b(_framed(purpose), digest_size=MAC_SIZE, key=secret, person=b"ac.mac")
    state.update(data)
    return state.digest()
