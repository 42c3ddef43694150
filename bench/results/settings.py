"""Settings of the project whose results are measured: both peers are installed beside."""

import os
from typing import Any

from bench import settings as core
from tests.servers import database_from_url

POSTGRES_URL = os.environ.get("BENCH_POSTGRES_URL", "")
REDIS_URL = core.REDIS_URL

SECRET_KEY = core.SECRET_KEY
USE_TZ = True
ALLOWED_HOSTS = ["testserver"]
ROOT_URLCONF = "bench.results.urls"
STATIC_URL = "/static/"
DEFAULT_AUTO_FIELD = core.DEFAULT_AUTO_FIELD
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "async_cache",
    "async_cache.results",
    "django_celery_results",
    "django_q",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
# A connection stays open, as in a worker: nobody's figure holds the making of one.
DATABASES: dict[str, dict[str, Any]] = {
    "default": {**database_from_url(POSTGRES_URL), "CONN_MAX_AGE": None}
    if POSTGRES_URL
    else core.DATABASES["default"]
}
CACHES = core.CACHES
ASYNC_CACHE: dict[str, Any] = {"CACHE": "default", "DISPATCHER": "immediate", "IO_TIMEOUT": 5}
Q_CLUSTER: dict[str, Any] = {
    "name": "bench",
    "redis": REDIS_URL,
    "cache": "django-redis",
    "save_limit": 0,
    "timeout": 30,
    "retry": 60,
}
LOGGING = core.LOGGING
