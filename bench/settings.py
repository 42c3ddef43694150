"""Settings of the measured project. The scenes add the caches whose servers they start."""

import os
import tempfile
from pathlib import Path
from typing import Any

DIRECTORY = Path(os.environ.get("BENCH_DIRECTORY") or tempfile.gettempdir())
REDIS_URL = os.environ.get("BENCH_REDIS_URL", "redis://127.0.0.1:6379/0")

SECRET_KEY = "not a secret: measurements only"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "async_cache",
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(DIRECTORY / "bench.sqlite3"),
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode=WAL"},
    }
}
CACHES: dict[str, dict[str, Any]] = {
    # First the alias that is measured; the peers have prefixes of their own.
    "default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": REDIS_URL},
    "django-redis": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": "peer",
    },
    "Django": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": "own",
    },
    "LocMemCache": {
        "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
        "LOCATION": "bench",
    },
    "FileBasedCache": {
        "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
        "LOCATION": str(DIRECTORY / "files"),
    },
    "DatabaseCache (SQLite)": {
        "BACKEND": "django.core.cache.backends.db.DatabaseCache",
        "LOCATION": "bench_cache",
    },
    "PyMemcacheCache": {
        "BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache",
        "LOCATION": os.environ.get("BENCH_MEMCACHED", "127.0.0.1:11211"),
    },
}
CACHEBACK_CACHE_ALIAS = "django-redis"
ASYNC_CACHE: dict[str, Any] = {
    "CACHE": "default",
    "DISPATCHER": "bench.jobs.Silent",
    "JOB_MODULES": ["bench.jobs"],
    # A neighbour's burst must not turn a hit into a fetch.
    "IO_TIMEOUT": 5,
}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "loggers": {"async_cache": {"level": "ERROR"}},
}
