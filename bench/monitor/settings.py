"""Settings of the project whose events are written down."""

import os
from typing import Any

from bench import settings as core
from bench.results import settings as results
from tests.servers import database_from_url

POSTGRES_URL = os.environ.get("BENCH_POSTGRES_URL", "")

SECRET_KEY = core.SECRET_KEY
USE_TZ = True
DEFAULT_AUTO_FIELD = core.DEFAULT_AUTO_FIELD
ALLOWED_HOSTS = results.ALLOWED_HOSTS
ROOT_URLCONF = results.ROOT_URLCONF
STATIC_URL = results.STATIC_URL
MIDDLEWARE = results.MIDDLEWARE
TEMPLATES = results.TEMPLATES
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "async_cache",
    "async_cache.monitor",
]
DATABASES: dict[str, dict[str, Any]] = {
    "default": {**database_from_url(POSTGRES_URL), "CONN_MAX_AGE": None}
    if POSTGRES_URL
    else core.DATABASES["default"]
}
CACHES = core.CACHES
ASYNC_CACHE: dict[str, Any] = {"CACHE": "default", "DISPATCHER": "immediate"}
CELERY_BROKER_URL = core.REDIS_URL
LOGGING = core.LOGGING
