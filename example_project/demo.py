"""Start the whole demo: data, cache, broker, worker, slow upstream service and web server.

    python example_project/demo.py              run until Ctrl-C
    python example_project/demo.py --check      read pages unattended, exit with 0 or 1

Environment: PORT (the web server's port, else a free one), REDIS_URL (a Redis or Valkey server to
use as cache and broker, else one of its own).
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from launcher.backing import Backing
from launcher.check import run_check
from launcher.processes import DemoError, StopRequested, StopSignals, Supervisor
from launcher.rundir import run_directory
from launcher.stage import Stage, running_stage

BASE = Path(__file__).resolve().parent / ".demo"
BACKINGS = {
    Backing.URL: "the server of REDIS_URL",
    Backing.VALKEY: "a Valkey server of its own",
    Backing.FILES: "SQLite and files (no server)",
}


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="check by itself, then end")
    parser.add_argument(
        "--embedded",
        choices=[Backing.VALKEY.value, Backing.FILES.value],
        help="ignore REDIS_URL and use this as cache and broker",
    )
    parser.add_argument(
        "--delay", type=float, default=3.0, help="seconds the weather service takes (default 3)"
    )
    options = parser.parse_args(argv)
    if not 0 <= options.delay <= 10:
        parser.error("--delay lies between 0 and 10 seconds")
    return options


def say(text: str) -> None:
    """Print a line at once; a terminal that was closed must not keep the rest from stopping."""
    with contextlib.suppress(OSError):
        print(f"  {text}", flush=True)


def guide(stage: Stage) -> str:
    """Return what a person should look at first."""
    return f"""
The demo runs:  {stage.url}/
  cache and broker: {BACKINGS[stage.backing]}
  logs:             {stage.logs}

What to look at:
  {stage.url}/weather/AKL/   the first read waits for a service that takes seconds; from then on
                                    every read is answered at once, stale or fresh
  {stage.url}/live/          the state of every read, as it changes
  {stage.url}/countries/NZ/  a list from the database, cached
  {stage.url}/board/         an async view
  {stage.url}/warm/          values that the clock keeps fresh
  {stage.url}/groups/        a group of calls in the worker, filling as they end
  {stage.url}/admin/         their rows: user demo, password {stage.password}

Ctrl-C stops all of it.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit status."""
    options = arguments(argv)
    started = time.monotonic()
    print("async_cache demo", flush=True)
    try:
        with StopSignals() as signals, run_directory(BASE) as run:
            logs = run / "logs"
            logs.mkdir()
            supervisor = Supervisor(signals, logs)
            with running_stage(
                run, supervisor, forced=options.embedded, delay=options.delay, say=say
            ) as stage:
                say(f"all processes answer after {time.monotonic() - started:.1f} s")
                if options.check:
                    return run_check(stage, supervisor)
                print(guide(stage), flush=True)
                supervisor.wait("Ctrl-C", lambda: False, float("inf"))
    except StopRequested:
        say("stopped")
        # Asked to stop, it did: a success for the person at the terminal, but not for a check.
        return 130 if options.check else 0
    except DemoError as error:
        print(f"\nThe demo cannot run. {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
