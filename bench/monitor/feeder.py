"""Publish the events of tasks as workers do, so many a second: ``python -m bench.monitor.feeder``.

Prints how many events it has published in how many seconds.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from typing import Any, Final

import django

from bench.monitor.app import app

__all__ = ["main"]

GROUP: Final = 10
"""Events of one message: workers gather those of tasks."""


def main(events: int, rate: float) -> None:
    """Publish events, three for each task; a rate of 0 is as fast as can be."""
    django.setup()
    with app.connection_for_write() as connection:
        dispatcher: Any = app.events.Dispatcher(
            connection, hostname="feeder@bench", buffer_group=["task"], buffer_limit=GROUP
        )
        started = time.perf_counter()
        sent = 0
        going: list[str] = []
        while sent < events:
            task_id = str(uuid.uuid4())
            going.append(task_id)
            told = {"name": "shop.tasks.add"}
            dispatcher.send(
                "task-received", uuid=task_id, args="(1, 2)", kwargs="{}", retries=0, **told
            )
            dispatcher.send("task-started", uuid=task_id, **told)
            # Some tasks take a while.
            if len(going) > 50:
                dispatcher.send(
                    "task-succeeded", uuid=going.pop(0), result="3", runtime=0.1, **told
                )
            sent += 3
            late = sent / rate - (time.perf_counter() - started) if rate else 0
            if late > 0.01:
                time.sleep(late)
        for task_id in going:
            dispatcher.send("task-succeeded", uuid=task_id, result="3", runtime=0.1)
        dispatcher.flush()
        seconds = time.perf_counter() - started
    print(json.dumps({"events": sent, "seconds": seconds, "ended": time.time()}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
