"""The key ring of this project: derived from ``SECRET_KEY`` and ``SECRET_KEY_FALLBACKS``."""

from __future__ import annotations

from django.conf import settings

from async_cache.ring import KeyRing

__all__ = ["get_ring"]

_current: tuple[tuple[str | bytes, ...], KeyRing] | None = None


def get_ring() -> KeyRing:
    """Return the ring that seals and opens entries and messages, made anew when a secret changes.

    Raises:
        ConfigurationError: ``SECRET_KEY`` is empty.
    """
    global _current
    secrets = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
    if _current is None or _current[0] != secrets:
        _current = (secrets, KeyRing(secrets))
    return _current[1]
