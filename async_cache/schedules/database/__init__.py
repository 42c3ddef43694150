"""Schedules in the database: an app of its own, beside django-celery-beat's."""
