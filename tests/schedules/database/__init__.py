"""Schedules in the database: nothing of this can run where django-celery-beat cannot."""

import pytest
from django.conf import settings

if not settings.BEAT_IN_DATABASE:
    pytest.skip("django-celery-beat cannot be installed here", allow_module_level=True)
