"""The example project: settings, addresses, the Celery app and the ASGI entry point."""

# Django loads this package first, so the Celery app exists before any job wants a worker.
from .celery import app as celery_app

__all__ = ["celery_app"]
