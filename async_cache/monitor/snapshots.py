"""What all processes together have counted."""

from __future__ import annotations

from asgiref.sync import sync_to_async

from async_cache.monitor.sharing import flush, read_slots
from async_cache.monitor.statistics import Counts, JobStatistics

__all__ = ["asnapshot", "snapshot"]


def snapshot() -> dict[str, JobStatistics]:
    """Return the statistics of each job by its name, over all processes.

    Those of other processes are as old as the setting ``FLUSH`` says. What no job is known of, such
    as a forged message, is under an empty name.

    Raises:
        StoreUnavailable: The cache does not answer.
    """
    flush()
    jobs: dict[str, Counts] = {}
    for slot in read_slots().values():
        for job, counts in slot.jobs.items():
            jobs.setdefault(job, Counts()).merge(counts)
    return {job: JobStatistics.of(job, counts) for job, counts in sorted(jobs.items())}


asnapshot = sync_to_async(snapshot)
