"""The Celery app whose events are written down: ``celery -A bench.monitor.app events``."""

from celery import Celery

__all__ = ["app"]

app = Celery("bench")
app.config_from_object("django.conf:settings", namespace="CELERY")
