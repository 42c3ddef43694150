"""What results announce, beside the core's signals, and in the same way.

===============  ==================================================================================
Signal           Payload and occasion
===============  ==================================================================================
hook_failed      ``task_id, hook, error, error_type``: the hook of a call raised. The task stays as
                 it ended; the hook is not called again.
===============  ==================================================================================

A forged or malformed call is announced as the core's ``refresh_dropped``, with ``job``
``"async_cache.results"``.
"""

from __future__ import annotations

from typing import Final

from async_cache.signals import Announcement

__all__ = ["hook_failed"]

hook_failed: Final = Announcement()
