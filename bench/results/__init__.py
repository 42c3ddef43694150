"""The figures of the result store, beside those of django-celery-results and django-q2."""
