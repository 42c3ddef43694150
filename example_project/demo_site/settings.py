"""Settings of the example project.

The parts to copy into a project of your own are CACHES, the CELERY_ block and ASYNC_CACHE.
The launcher (`demo.py`) passes what differs from run to run in the environment:

DEMO_DIR             where the database and, without a server, the broker's files live
DEMO_REDIS_URL       the Redis or Valkey server; empty: SQLite and files take its place
DEMO_KEY_PREFIX      put before every key, so that two demos can share a server
DEMO_UPSTREAM_URL    the slow weather service
DEMO_SECRET_KEY      signs cookies, cache entries and refresh messages
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

BASE_DIR = Path(__file__).resolve().parent.parent
DEMO_DIR = Path(os.environ.get("DEMO_DIR") or BASE_DIR / ".demo" / "manual")
DEMO_DIR.mkdir(parents=True, exist_ok=True)
REDIS_URL = os.environ.get("DEMO_REDIS_URL", "")
KEY_PREFIX = os.environ.get("DEMO_KEY_PREFIX", "async-cache-demo")
UPSTREAM_URL = os.environ.get("DEMO_UPSTREAM_URL", "http://127.0.0.1:8001")

# Web server and worker must share this key: async_cache seals entries and messages with it.
SECRET_KEY = os.environ.get("DEMO_SECRET_KEY", "only-for-running-the-demo-by-hand")
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]"]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "async_cache",
    "async_cache.monitor",
    "async_cache.results",
    "async_cache.schedules",
    "airports",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "demo_site.urls"
ASGI_APPLICATION = "demo_site.asgi.application"

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
    }
]

# SQLite in WAL mode lets readers and one writer work at the same time. IMMEDIATE takes the write
# lock when a transaction begins: without it two writers that both read first cannot wait for
# each other, and DatabaseCache would lose writes.
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": DEMO_DIR / "demo.sqlite3",
        "OPTIONS": {
            "timeout": 10,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    }
}

# The cache. Web server and worker must both reach it, so a per-process cache will not do.
CACHES: dict[str, dict[str, Any]]
if REDIS_URL:
    CACHES = {
        "default": {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": REDIS_URL,
            "KEY_PREFIX": KEY_PREFIX,
            "OPTIONS": {
                "SOCKET_CONNECT_TIMEOUT": 0.25,
                "SOCKET_TIMEOUT": 0.25,
            },
        }
    }
else:
    CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.db.DatabaseCache",
            "LOCATION": "cache_entries",
            "KEY_PREFIX": KEY_PREFIX,
            # Past this many rows the backend deletes a part of them. Its default of 300 is low:
            # one cached call takes several rows (the entry, its stamps, its lease).
            "OPTIONS": {"MAX_ENTRIES": 20_000},
        }
    }

# Celery. A worker started with `celery -A demo_site worker -Q celery,upstream` does the refreshes.
if REDIS_URL:
    CELERY_BROKER_URL = REDIS_URL
    CELERY_BROKER_TRANSPORT_OPTIONS: dict[str, Any] = {"global_keyprefix": f"{KEY_PREFIX}:"}
else:
    # Messages as files: no server at all. Fine for a demo, not for production.
    CELERY_BROKER_URL = "filesystem://"
    _folders = {
        "data_folder_in": DEMO_DIR / "broker" / "messages",
        "data_folder_out": DEMO_DIR / "broker" / "messages",
        "processed_folder": DEMO_DIR / "broker" / "processed",
        "control_folder": DEMO_DIR / "broker" / "control",
    }
    for _folder in _folders.values():
        _folder.mkdir(parents=True, exist_ok=True)
    CELERY_BROKER_TRANSPORT_OPTIONS = {
        **{name: str(folder) for name, folder in _folders.items()},
        "polling_interval": 0.1,  # seconds; the default of one second would delay each refresh
    }
# Results of Celery tasks: in Redis, and of tasks with persist=True in the database too. Most tasks
# keep none. `async_task` does not need this: it keeps its results in the store of async_cache.
if REDIS_URL:
    CELERY_RESULT_BACKEND = f"async-cache-redis+{REDIS_URL}"
    CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS = {"global_keyprefix": f"{KEY_PREFIX}:"}
else:
    CELERY_RESULT_BACKEND = "async-cache-db"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_SERIALIZER = "json"
CELERY_TASK_IGNORE_RESULT = True
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
# What the camera writes down, and what the admin's actions reach workers by. Files know neither.
CELERY_WORKER_SEND_TASK_EVENTS = bool(REDIS_URL)
CELERY_WORKER_ENABLE_REMOTE_CONTROL = bool(REDIS_URL)

# async_cache. Options that jobs do not set themselves come from DEFAULTS; a JOBS entry, found by
# the job's name, wins over what the class says. Here it makes the weather go stale quickly, so
# that there is something to see, and gives the slow calls a queue of their own.
ASYNC_CACHE: dict[str, Any] = {
    "CACHE": "default",
    "DISPATCHER": "celery",
    "DEFAULTS": {"ttl": 60, "grace": 3600},
    "JOBS": {
        "airports.jobs.AirportWeather": {"ttl": 10, "queue": "upstream"},
        "async_cache.QuerySetGetJob:airports.Airport": {"ttl": 30},
    },
    "MONITOR": {"FLUSH": 2},  # by default a process shares its counts every ten seconds
    "RESULTS": {
        "CACHED": False,  # async_task writes rows; True keeps results in the cache only
        "VIEW_PERMISSION": "airports.group_views.anyone",  # by default, staff may ask
    },
}

USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
STATIC_URL = "static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {
        "async_cache": {"handlers": ["console"], "level": "INFO", "propagate": False},
        "django": {"handlers": ["console"], "level": "WARNING", "propagate": False},
    },
}
