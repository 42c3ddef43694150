"""``manage.py async_cache stats``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError

from async_cache import clock
from async_cache.exceptions import StoreUnavailable
from async_cache.management.subcommands import Subcommand
from async_cache.monitor.snapshots import snapshot
from async_cache.monitor.statistics import JobStatistics

__all__ = ["Stats"]

NOBODY: Final = "(no job)"
_SCREEN: Final = "\x1b[H\x1b[2J"


class Stats(Subcommand):
    """Tell what all processes have counted."""

    name = "stats"
    help = "tell what all processes have counted: reads, refreshes, ages, errors, by job"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare which jobs, how to write, and how often."""
        parser.add_argument("jobs", nargs="*", metavar="job", help="these jobs only")
        parser.add_argument(
            "--format", choices=("table", "json"), default="table", help="how to write it"
        )
        parser.add_argument(
            "--watch",
            nargs="?",
            type=float,
            const=2.0,
            metavar="SECONDS",
            help="write it again and again, every 2 seconds or as many as given; Ctrl-C ends it",
        )

    def run(self, command: BaseCommand, options: Mapping[str, Any]) -> None:
        """Write the statistics, once or until Ctrl-C."""
        every = options["watch"]
        if every is not None and not every > 0:
            raise CommandError("--watch takes a number of seconds above zero.")
        if every is None:
            _write(command, options)
            return
        never = threading.Event()
        try:
            while True:
                try:
                    _write(command, options, again=True)
                except StoreUnavailable as error:
                    # It may be back the next time.
                    command.stderr.write(f"{type(error).__name__}: {error}")
                command.stdout.flush()
                never.wait(every)
        except KeyboardInterrupt:
            return


def _write(command: BaseCommand, options: Mapping[str, Any], *, again: bool = False) -> None:
    told = _chosen(snapshot(), options["jobs"])
    if options["format"] == "json":
        text = json.dumps([_plain(one) for one in told], indent=None if again else 2)
    else:
        text = _table(told)
        if again and command.stdout.isatty():
            text = _SCREEN + text
    command.stdout.write(text)


def _chosen(found: Mapping[str, JobStatistics], names: Sequence[str]) -> list[JobStatistics]:
    unknown = [name for name in names if name not in found]
    if unknown:
        raise CommandError(
            f"Nothing was counted of {', '.join(unknown)}. Known are: {', '.join(found) or 'none'}."
        )
    return [found[name] for name in names] if names else list(found.values())


def _plain(one: JobStatistics) -> dict[str, Any]:
    plain = {field.name: getattr(one, field.name) for field in dataclasses.fields(one)}
    plain |= {"refused": dict(one.refused), "dropped": dict(one.dropped)}
    return plain | {"reads": one.reads, "hit_ratio": one.hit_ratio}


def _table(told: Iterable[JobStatistics]) -> str:
    lines: list[str] = []
    for one in told:
        lines.append(one.job or NOBODY)
        lines += [f"  {name:<10} {text}" for name, text in _rows(one) if text]
    return "\n".join(lines) or "Nothing was counted yet."


def _rows(one: JobStatistics) -> list[tuple[str, str]]:
    ratio = "" if one.hit_ratio is None else f" ({one.hit_ratio:.1%} from the cache)"
    reads = f"{one.fresh} fresh, {one.stale} stale, {one.miss} miss, {one.error} error{ratio}"
    refreshes = (
        f"{one.committed} stored, {one.failed} failed, {sum(one.refused.values())} refused"
        f"{_reasons(one.refused)}, {one.coalesced} coalesced"
    )
    messages = (
        f"{one.dispatched} dispatched, {one.unanswered} overdue, "
        f"{sum(one.dropped.values())} dropped{_reasons(one.dropped)}"
    )
    return [
        ("reads", reads if one.reads else ""),
        ("age", _seconds(one.mean_age, "mean of the values served")),
        ("refreshes", refreshes),
        ("messages", messages),
        ("fetch", _seconds(one.mean_fetch, f"mean, {one.longest_fetch:.3g} s longest")),
        ("queue", _seconds(one.mean_queued, "mean")),
        ("entries", f"{one.rejected} did not open" if one.rejected else ""),
        ("uncached", f"{one.uncached} calls past max_keys" if one.uncached else ""),
        ("stored", _moment(one.last_success)),
        ("failed", _moment(one.last_failure) + (f" {one.last_error}" if one.last_error else "")),
    ]


def _reasons(reasons: Mapping[str, int]) -> str:
    return f" ({', '.join(f'{k} {n}' for k, n in reasons.items())})" if reasons else ""


def _seconds(value: float | None, what: str) -> str:
    return "" if value is None else f"{value:.3g} s {what}"


def _moment(moment: float | None) -> str:
    if moment is None:
        return ""
    shown = datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"{shown}, {max(0, clock.now() - moment):.0f} s ago"
