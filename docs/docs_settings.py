"""The least that lets Sphinx import the package."""

SECRET_KEY = "documentation"
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "async_cache",
    "async_cache.results",
    "async_cache.monitor",
]
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
USE_TZ = True
