"""Pickled results in a seal: nothing is unpickled that this project has not written."""

from __future__ import annotations

from typing import Final

from async_cache.keyring import MAC_SIZE
from async_cache.results.exceptions import RecordRejected
from async_cache.secret_keys import get_ring

__all__ = ["PICKLE", "seal", "unseal"]

PICKLE: Final = frozenset({"application/x-python-serialize"})
"""The content types that are sealed."""
_PURPOSE: Final = b"async_cache.results.celery"


def seal(data: bytes) -> bytes:
    """Return pickled bytes with a MAC before them."""
    return get_ring().mac(data, _PURPOSE) + data


def unseal(data: bytes) -> bytes:
    """Check the MAC of pickled bytes and return them.

    Raises:
        RecordRejected: Nobody with this project's ``SECRET_KEY`` wrote them.
    """
    body = data[MAC_SIZE:]
    if not get_ring().verify(body, data[:MAC_SIZE], _PURPOSE):
        raise RecordRejected(
            "a pickled result that was not sealed here is not loaded; rows of "
            "django-celery-results that only your own workers wrote are sealed by "
            "manage.py async_cache import_results --trust-pickle"
        )
    return body
