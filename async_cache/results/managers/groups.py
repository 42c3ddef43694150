"""The manager of the results of Celery's groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

from django.db import DatabaseError, models

from async_cache.results.apart import run_apart
from async_cache.results.managers.base import ResultManager
from async_cache.results.retrying import transaction_retry
from async_cache.results.upsert import Rules, upsert
from async_cache.results.utils import now

__all__ = ["GROUP_RULES", "GroupResultManager"]

M = TypeVar("M", bound=models.Model)

GROUP_RULES: Final = Rules(
    key="group_id", first=frozenset({"date_created"}), latest=frozenset({"date_done"})
)


class GroupResultManager(ResultManager[M]):
    """The manager of `GroupResult`."""

    @transaction_retry(max_retries=1)
    def get_group(self, group_id: str) -> M:
        """Return the result of a group; an unsaved instance when there is none."""
        return self._find(group_id=group_id)

    def store_group_result(
        self,
        content_type: str,
        content_encoding: str,
        group_id: str,
        result: str | None,
        using: str | None = None,
        *,
        exception_retry_count: int = 2,
    ) -> M:
        """Store what a group consists of; survives the rollback of the caller's transaction.

        Returns:
            The stored row.
        """
        moment = now()
        row = {
            "group_id": group_id,
            "result": result,
            "content_type": content_type,
            "content_encoding": content_encoding,
            "date_created": moment,
            "date_done": moment,
        }
        alias = using or self.connection_for_write().alias
        answer = run_apart(
            alias,
            lambda: self._upsert(row, using=alias, exception_retry_count=exception_retry_count),
        )
        return self.model(**row) if answer is None else answer

    @transaction_retry(max_retries=2)
    def _upsert(self, row: Mapping[str, Any], *, using: str) -> M:
        names = [field.attname for field in self.model._meta.concrete_fields]
        values = upsert(self.model, using, GROUP_RULES, row, names)
        if values is None:
            raise DatabaseError("The database told nothing of the row it wrote.")
        return self.model.from_db(using, names, values)
