"""The managers of what is counted: places in result groups, parts of chords."""

from __future__ import annotations

from typing import Any, Final, TypeVar

from django.apps import apps
from django.db import DatabaseError, connections, models, router, transaction
from django.db.models.constants import OnConflict

from async_cache.results.apart import run_apart
from async_cache.results.retrying import transaction_retry
from async_cache.results.rows import id_length, refuse_id
from async_cache.results.upsert import Rules, upsert
from async_cache.results.utils import now

__all__ = ["ChordCounterManager", "GroupSequenceManager"]

M = TypeVar("M", bound=models.Model)

SEQUENCE_RULES: Final = Rules(key="group", add=frozenset({"taken"}))


class GroupSequenceManager(models.Manager[M]):
    """The manager of `GroupSequence`."""

    def reserve(self, group: str, places: int = 1, using: str | None = None) -> int:
        """Take the next places of a group; survives the rollback of the caller's transaction.

        Within a transaction on SQLite it is part of it.

        Returns:
            The first of them, from 0.

        Raises:
            UnstorableValue: No row can hold the label.
        """
        refuse_id("group", group, id_length())
        alias = using or router.db_for_write(self.model)
        return run_apart(alias, lambda: self._reserve(group, places, using=alias), later=False)

    @transaction_retry(max_retries=2)
    def _reserve(self, group: str, places: int, *, using: str) -> int:
        row = {"group": group, "taken": places, "date_done": now()}
        answer = upsert(self.model, using, SEQUENCE_RULES, row, ("taken",))
        if answer is None:
            raise DatabaseError("The database told nothing of the row it wrote.")
        return int(answer[0]) - places


class ChordCounterManager(models.Manager[M]):
    """The manager of `ChordCounter`: which parts of a chord's header have ended."""

    def start(self, group_id: str, count: int, sub_tasks: str, using: str | None = None) -> M:
        """Make the counter of a chord; one that is there already stays as it is.

        It is there when this returns, whatever becomes of the caller's transaction: the first part
        may end at once. Within a transaction on SQLite it is part of it, and parts wait for that.

        Args:
            group_id: Id of the header's group.
            count: How many parts the header has.
            sub_tasks: JSON of their result tuples.
            using: The database; else the routers decide.
        """
        alias = using or router.db_for_write(self.model)
        values = {"count": count, "sub_tasks": sub_tasks}
        return run_apart(
            alias,
            lambda: self.using(alias).get_or_create(group_id=group_id, defaults=values)[0],
            later=False,
        )

    def end_part(self, group_id: str, task_id: str, using: str | None = None) -> M | None:
        """Count one part that has ended, once however often it is delivered.

        The counter is locked until the caller's transaction ends. What follows from the last part
        belongs into that transaction, `finish` included: once it has committed, no call gets the
        counter again.

        Args:
            group_id: Id of the header's group.
            task_id: Id of the part.
            using: The database; else the routers decide.

        Returns:
            The counter, when this was the last part; None otherwise, and when there is no such
            chord any more.
        """
        alias = using or router.db_for_write(self.model)
        with transaction.atomic(using=alias, savepoint=False):
            parts = self._parts(alias)
            if not insert_once(parts.model, alias, {"group_id": group_id, "task_id": task_id}):
                return None
            counters = self.using(alias).filter(group_id=group_id)
            # Written, not only locked: at REPEATABLE READ two parts that end at once are told.
            if not counters.update(ended=models.F("ended") + 1):
                parts.filter(group_id=group_id, task_id=task_id).delete()
                return None
            return counters.filter(ended__gte=models.F("count")).first()

    def finish(self, group_id: str, using: str | None = None) -> None:
        """Delete the counter and the parts of a chord whose body has been called."""
        alias = using or router.db_for_write(self.model)
        with transaction.atomic(using=alias, savepoint=False):
            self.using(alias).filter(group_id=group_id).delete()
            self._parts(alias).filter(group_id=group_id).delete()

    def _parts(self, alias: str) -> models.QuerySet[Any]:
        model: Any = apps.get_model(self.model._meta.app_label, "ChordPart")
        rows: models.QuerySet[Any] = model._base_manager.using(alias)
        return rows


def insert_once(model: type[models.Model], using: str, values: dict[str, Any]) -> bool:
    """Insert a row; return False where one with the same unique fields is there already."""
    connection = connections[using]
    row = model(**values)
    fields: list[Any] = [field for field in model._meta.concrete_fields if not field.primary_key]
    ops, quote = connection.ops, connection.ops.quote_name
    ignore = OnConflict.IGNORE
    statement = (
        f"{ops.insert_statement(on_conflict=ignore)} {quote(model._meta.db_table)} "
        f"({', '.join(quote(field.column) for field in fields)}) "
        f"VALUES ({', '.join(['%s'] * len(fields))}) "
        f"{ops.on_conflict_suffix_sql(fields, ignore, [], [])}"
    )
    given = [field.get_db_prep_save(field.pre_save(row, True), connection) for field in fields]
    with connection.cursor() as cursor:
        cursor.execute(statement, given)
        return bool(cursor.rowcount > 0)
