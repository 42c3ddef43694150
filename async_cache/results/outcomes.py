"""What a layer knows of a task or a group, as values."""

from __future__ import annotations

from typing import Any

from async_cache.results import codec
from async_cache.results.layers import Layer
from async_cache.results.records import Record

__all__ = ["count_members", "ended_members", "value_of", "values_of"]


def value_of(record: Record) -> Any:
    """Return the value of a record that is ready; of a failed task its exception."""
    return codec.decode_value(record) if record.successful else codec.decode_error(record)


def ended_members(layer: Layer, group_id: str, failures: bool) -> list[Record]:
    """Return the members of a group that ended, in call order.

    Args:
        layer: Where the group lives.
        group_id: Its label.
        failures: Whether those that failed belong to the answer.
    """
    members = layer.group(group_id)
    return [r for r in members if r.successful or (failures and r.ready)]


def values_of(layer: Layer, group_id: str, failures: bool) -> list[Any]:
    """Return the values of a group's members that ended, in call order."""
    return [value_of(record) for record in ended_members(layer, group_id, failures)]


def count_members(layer: Layer, group_id: str, failures: bool) -> int:
    """Return how many members ended; with ``failures`` only those that failed."""
    counts = layer.count(group_id)
    return counts.failures if failures else counts.ended
