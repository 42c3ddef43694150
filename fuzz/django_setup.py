"""Django as the fuzzers use it: no database, no cache that another process sees."""

from __future__ import annotations

__all__ = ["set_up"]


def set_up() -> None:
    """Configure Django where nobody has."""
    import django
    from django.conf import settings

    if not settings.configured:
        settings.configure(
            INSTALLED_APPS=["django.contrib.contenttypes"], SECRET_KEY="fuzzers only", USE_TZ=True
        )
        django.setup()
