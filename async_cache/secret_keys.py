"""The project's secrets as a key ring, made again when they change."""

from __future__ import annotations

from django.conf import settings

from async_cache import conf
from async_cache.keyring import KeyRing

__all__ = ["get_ring"]

_ring: tuple[int, KeyRing] | None = None


def get_ring() -> KeyRing:
    """Return the ring of ``SECRET_KEY``, which seals, and ``SECRET_KEY_FALLBACKS``, which open."""
    global _ring
    kept = _ring
    if kept is None or kept[0] != conf.epoch:
        fallbacks = getattr(settings, "SECRET_KEY_FALLBACKS", ())
        kept = conf.epoch, KeyRing([settings.SECRET_KEY, *fallbacks])
        _ring = kept
    return kept[1]
