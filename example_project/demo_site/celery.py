"""The Celery app. This is all that Celery needs to know about Django."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from celery import Celery
from celery.signals import import_modules, worker_ready

from async_cache import schedules

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "demo_site.settings")

app = Celery("demo_site")

# Every setting that starts with CELERY_ in settings.py is a setting of this app.
app.config_from_object("django.conf:settings", namespace="CELERY")

# async_cache brings its own task; its app is in INSTALLED_APPS, so this finds it.
app.autodiscover_tasks()


# Sent by `celery beat` and `celery worker` before they begin, once Django's apps are loaded.
@import_modules.connect(sender=app)
def keep_warm(**kwargs: Any) -> None:
    """Let Celery beat tick for the jobs with a schedule; `HubWeather` is one."""
    app.conf.beat_schedule = schedules.beat_schedule()


@worker_ready.connect
def announce(**kwargs: Any) -> None:
    """Tell the launcher, by an empty file, that this worker takes messages now."""
    path = os.environ.get("DEMO_WORKER_READY")
    if path:
        Path(path).touch()
