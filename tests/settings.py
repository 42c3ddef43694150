"""Settings of the test suite, and of the workers that its integration tests start.

Nothing here needs a server: fixtures add the caches and databases of servers once they run. A
worker process gets what the test has set through the variable ``TEST_SETTINGS`` (JSON).
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import django

# Made and removed by conftest.py; a worker is told its parent's.
DIRECTORY = Path(
    os.environ.get("TEST_DIRECTORY")
    or Path(tempfile.gettempdir()) / f"async-cache-tests-{os.getpid()}"
)

SECRET_KEY = "not a secret: the tests only"
DEBUG = False
ALLOWED_HOSTS = ["*"]
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
ROOT_URLCONF = "tests.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "/static/"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "async_cache",
    "async_cache.monitor",
    "async_cache.results",
    "async_cache.schedules",
    "tests.app",
]

# django-celery-beat cannot be installed beside Django 6.1; everywhere else it must be there.
BEAT_IN_DATABASE = django.VERSION < (6, 1)
if BEAT_IN_DATABASE:
    INSTALLED_APPS += ["django_celery_beat", "async_cache.schedules.database"]

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
            ],
        },
    },
]

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


def sqlite(name: str) -> dict[str, Any]:
    """Describe a SQLite database in a file, so that threads and workers share it."""
    path = str(DIRECTORY / f"{name}.sqlite3")
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": path,
        "TEST": {"NAME": path},
        "OPTIONS": {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA synchronous=OFF",  # no test cuts the power
        },
    }


def postgres(url: str, name: str | None = None) -> dict[str, Any]:
    """Describe the PostgreSQL database that a URL names."""
    from tests.servers import database_from_url

    return database_from_url(url, name)


if os.environ.get("TEST_DATABASE") == "postgres":
    DATABASES = {
        "default": postgres(os.environ["TEST_DATABASE_URL"], "async_cache_default"),
        "other": postgres(os.environ["TEST_DATABASE_URL"], "async_cache_other"),
    }
else:
    DATABASES = {"default": sqlite("default"), "other": sqlite("other")}

CACHES: dict[str, dict[str, Any]] = {
    "default": {
        "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
        "LOCATION": "default",
        "OPTIONS": {"MAX_ENTRIES": 100_000},
    },
    "file": {
        "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
        "LOCATION": str(DIRECTORY / "cache"),
    },
    "database": {
        "BACKEND": "django.core.cache.backends.db.DatabaseCache",
        "LOCATION": "async_cache_table",
    },
    "dummy": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"},
}

ASYNC_CACHE: dict[str, Any] = {"CACHE": "default"}

CELERY_BROKER_URL = "memory://"
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_IGNORE_RESULT = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "loggers": {"async_cache": {"handlers": [], "level": "DEBUG", "propagate": True}},
}

globals().update(json.loads(os.environ.get("TEST_SETTINGS") or "{}"))
