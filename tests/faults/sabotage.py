"""Break the code of a worker: ``CELERY_IMPORTS`` names this, ``SABOTAGE`` what is left out."""

from __future__ import annotations

from unittest import mock

from django.conf import settings

__all__: list[str] = []


def _passes(*args: object, **named: object) -> bool:
    return True


for _target in getattr(settings, "SABOTAGE", ()):
    mock.patch(_target, _passes).start()
