"""What ``manage.py check`` says about the configuration.

Every message has an id and a hint that says what to do.

====  =============================================================================================
Id    Meaning
====  =============================================================================================
E001  ``ASYNC_CACHE``, or a part of it, has the wrong type
E002  unknown key in ``ASYNC_CACHE``
E003  bad value of a setting or an option
E004  unknown option of a job
E005  a cache alias is not in ``CACHES``
E006  a cache backend cannot be loaded
E007  two jobs have one name
E008  a dispatcher cannot be used: it cannot be imported, or this Django has no tasks
E009  Celery is not installed
E010  Celery workers do not accept JSON
E011  the broker's client library is missing
E012  a serializer cannot be loaded
W001  the dummy cache stores nothing
W002  the local-memory cache is not shared between processes
W003  the file-based cache cannot elect one refresher
W004  DatabaseCache on SQLite without IMMEDIATE transactions loses writes
W005  ``MAX_ENTRIES`` is Django's default of 300
W006  a cache has no socket timeouts of its own
W007  ``JOBS`` names a job that is not known
W008  no Celery app of the project is loaded
W009  the Celery broker lives in this process' memory
W010  a section of ``ASYNC_CACHE`` belongs to an app that is not installed
W011  ttl + grace exceed ``MAX_LIFETIME``
W012  workers may not import a job's module
W013  django-redis hides outages: ``IGNORE_EXCEPTIONS``
W014  an attribute of a job looks like a misspelled option
W015  a job has a schedule or ``keep_warm``, and ``async_cache.schedules`` is not installed
I001  Celery runs tasks eagerly
W101  (deploy) ``SECRET_KEY`` is weak
W102  (deploy) a cache backend unpickles what it reads
W103  (deploy) a cache is reached over the network without a password or TLS
W104  (deploy) Celery workers accept pickle
W105  (deploy) the broker is reached over the network without a password or TLS
W106  (deploy) Celery's result backend is reached over the network without a password or TLS
====  =============================================================================================
"""

from __future__ import annotations

from django.core import checks

from async_cache.checks import caches, dispatch, jobs, network, security, settings

__all__ = ["TAG", "register"]

TAG = "async_cache"


def register() -> None:
    """Register the checks; registering twice is the same as once."""
    for check in (
        settings.check_setting,
        settings.check_sections,
        caches.check_caches,
        dispatch.check_dispatchers,
        dispatch.check_celery,
        jobs.check_jobs,
    ):
        checks.register(check, TAG)
    for check in (
        security.check_secret_key,
        security.check_backends,
        network.check_cache_access,
        network.check_broker_access,
    ):
        checks.register(check, TAG, checks.Tags.security, deploy=True)
