"""The managers of the result models, with the names that django-celery-results gives them."""

from __future__ import annotations

from async_cache.results.isolation import TxIsolationWarning
from async_cache.results.managers.base import ResultManager
from async_cache.results.managers.groups import GROUP_RULES, GroupResultManager
from async_cache.results.managers.tasks import TASK_RULES, TaskResultManager
from async_cache.results.retrying import transaction_retry

__all__ = [
    "GROUP_RULES",
    "TASK_RULES",
    "GroupResultManager",
    "ResultManager",
    "TaskResultManager",
    "TxIsolationWarning",
    "transaction_retry",
]
