"""Run one command and let nothing of it outlive whoever asked for it.

    python keeper.py [--signal TERM] [--grace 10] [--user NAME] [--remove DIR] LOG COMMAND...

The keeper is a process of its own, in a session of its own, so that Ctrl-C at the terminal does
not reach the command. It ends the command, and all that the command started, when its standard
input ends, when its parent is gone or when it gets SIGTERM. On Linux the kernel kills the command
should the keeper itself be killed. The first line on standard output is the command's process id.

Only the standard library, so that it starts in a few milliseconds under ``python -S -E``.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
POLL_SECONDS = 0.5


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process, where the kernel has such."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def become(user: str) -> None:
    """Give up root for ``user``, groups included."""
    entry = pwd.getpwnam(user)
    os.initgroups(user, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    os.environ["HOME"] = "/tmp"


def prepare(user: str | None) -> Callable[[], None]:
    """Return what the child runs between fork and exec."""
    keeper = os.getpid()

    def run() -> None:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # an ignored signal stays so through exec
        if user:
            become(user)
        # After the change of user: the kernel forgets the setting on it.
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != keeper:
            os._exit(1)

    return run


def wait_for_end(child: subprocess.Popen[bytes], parent: int) -> None:
    """Return when the child has ended or nobody needs it any more."""
    while child.poll() is None and os.getppid() == parent:
        ready, _, _ = select.select([0], [], [], POLL_SECONDS)
        if ready and not os.read(0, 4096):
            return


def end_input(number: int, frame: FrameType | None) -> None:
    """Make a signal look like the end of the standard input."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def descendants(root: int) -> list[int]:
    """List the processes below ``root`` that are still there (Linux)."""
    parents: dict[int, int] = {}
    if not os.path.isdir("/proc/self"):
        return []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if fields[0] != b"Z":
                parents[int(name)] = int(fields[1])
    found = {root}
    while True:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            return sorted(found - {root})
        found |= more


def send(send_to: Callable[[int, int], None], pid: int, number: int) -> None:
    """Send a signal to a process that may be gone already."""
    try:
        send_to(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def finish(child: subprocess.Popen[bytes], number: int, grace: float) -> None:
    """Ask the child to end, then make it and all it left behind end."""
    if child.poll() is None:
        # A stopped process takes no signal but these two.
        send(os.killpg, child.pid, signal.SIGCONT)
        child.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace)
    send(os.killpg, child.pid, signal.SIGKILL)
    deadline = time.monotonic() + 2
    while (left := descendants(os.getpid())) and time.monotonic() < deadline:
        for pid in left:
            send(os.kill, pid, signal.SIGKILL)
        time.sleep(0.01)


def remove(directory: str) -> None:
    """Remove a directory, in which another process may write until it ends too."""
    deadline = time.monotonic() + 10
    shutil.rmtree(directory, ignore_errors=True)
    while os.path.exists(directory) and time.monotonic() < deadline:
        time.sleep(0.1)
        shutil.rmtree(directory, ignore_errors=True)


def main() -> NoReturn:
    """Start the command, keep it, end it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--signal", default="TERM")
    parser.add_argument("--grace", type=float, default=10)
    parser.add_argument("--user")
    parser.add_argument("--remove")
    parser.add_argument("log")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    parent = os.getppid()
    signal.signal(signal.SIGTERM, end_input)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    with open(options.log, "ab") as log:
        child = subprocess.Popen(
            options.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=prepare(options.user),
        )
    print(child.pid, flush=True)
    wait_for_end(child, parent)
    finish(child, signal.Signals[f"SIG{options.signal}"], options.grace)
    if options.remove:
        remove(options.remove)
    sys.exit(child.poll() or 0)


if __name__ == "__main__":
    main()
