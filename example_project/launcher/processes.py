"""Child processes that end with the launcher, whatever ends it.

Each child runs in a session of its own, so Ctrl-C in the terminal reaches the launcher only and
the launcher decides the order. On Linux each child also asks the kernel to be killed when the
launcher dies (PR_SET_PDEATHSIG), which covers `kill -9`. Other systems have no such request:
there, a launcher that is killed with SIGKILL leaves its children running.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

POLL = 0.05
PR_SET_PDEATHSIG = 1
TAIL_LINES = 25

# Loaded here and not in the child: between fork and exec as little as possible should happen.
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class DemoError(Exception):
    """The demo cannot go on; the text says why and is meant for the person who started it."""


class StopRequested(BaseException):
    """The person asked the demo to stop (Ctrl-C, SIGTERM, or the terminal was closed)."""


@dataclass
class Service:
    """One running child.

    Attributes:
        name: What to call it in messages.
        process: The child itself.
        log: The file that holds what it prints.
        patience: Seconds it gets to stop by itself.
    """

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    patience: float

    @property
    def pid(self) -> int:
        """The process id, which is also the id of its process group."""
        return self.process.pid

    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.poll() is None

    def tail(self) -> str:
        """The last lines it printed."""
        return tail(self.log)


@dataclass
class StopSignals:
    """Remembers that a stop was asked for; a second time means at once.

    The handler only counts. Raising from it could lose a child between its start and the line
    that takes note of it.
    """

    count: int = 0
    _before: dict[int, object] = field(default_factory=dict)

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1

    def check(self) -> None:
        """Raise StopRequested when a stop was asked for."""
        if self.count:
            raise StopRequested


class Supervisor:
    """Starts services, waits for them, and stops them in the reverse order."""

    def __init__(self, signals: StopSignals, logs: Path) -> None:
        self.signals = signals
        self.logs = logs
        self.services: list[Service] = []

    def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        patience: float = 5.0,
        pass_fds: Sequence[int] = (),
        cwd: Path | None = None,
    ) -> Service:
        """Start a service; it counts as one from here on and must not end."""
        service = self._spawn(name, command, environment, patience, pass_fds, cwd)
        self.services.append(service)
        return service

    def run(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        timeout: float = 120.0,
    ) -> str:
        """Run a command to its end and return what it printed.

        Raises:
            DemoError: It failed or took longer than `timeout` seconds.
        """
        service = self._spawn(name, command, environment, 2.0, (), None)
        try:
            self.wait(f"{name} to end", lambda: not service.running(), timeout)
        finally:
            self._end(service)
        if service.process.returncode:
            raise DemoError(
                f"{name} ended with status {service.process.returncode}:\n{service.tail()}"
            )
        return service.log.read_text(errors="replace")

    def wait(self, what: str, ready: Callable[[], bool], timeout: float) -> None:
        """Wait until `ready()` holds while every service keeps running.

        Raises:
            DemoError: The time ran out, or a service ended.
            StopRequested: A stop was asked for.
        """
        end = time.monotonic() + timeout
        while not ready():
            self.signals.check()
            self.watch()
            if time.monotonic() > end:
                logs = "\n".join(f"--- {s.name}\n{s.tail()}" for s in self.services)
                raise DemoError(f"Waited {timeout:g} s for {what}, in vain.\n{logs}")
            time.sleep(POLL)

    def watch(self) -> None:
        """Raise DemoError when a service has ended by itself."""
        for service in self.services:
            if not service.running():
                raise DemoError(
                    f"The {service.name} ended by itself with status "
                    f"{service.process.returncode}:\n{service.tail()}"
                )

    def pid_of(self, name: str) -> int:
        """Return the process id of a service."""
        return next(service.pid for service in self.services if service.name == name)

    def discard(self, service: Service) -> None:
        """Stop a service that is of no use and forget it."""
        self._end(service)
        self.services.remove(service)

    def stop(self, say: Callable[[str], None] = lambda text: None) -> None:
        """Stop every service, the last started first, each one fully before the next."""
        while self.services:
            service = self.services[-1]
            say(f"stopping {service.name}")
            self._end(service)
            self.services.pop()

    def _spawn(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        patience: float,
        pass_fds: Sequence[int],
        cwd: Path | None,
    ) -> Service:
        log = self.logs / f"{name.replace(' ', '-')}.log"
        launcher = os.getpid()
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=pass_fds,
                cwd=cwd,
                preexec_fn=lambda: die_with(launcher),
            )
        return Service(name, process, log, patience)

    def _end(self, service: Service) -> None:
        """Ask a service to stop, wait, then kill what is left of its process group."""
        if service.running():
            with contextlib.suppress(ProcessLookupError):
                service.process.terminate()
            asked = self.signals.count
            end = time.monotonic() + service.patience
            # One more Ctrl-C while a service takes its time: no more patience with this one.
            while service.running() and time.monotonic() < end and self.signals.count <= asked:
                time.sleep(POLL)
        kill_group(service.pid)
        service.process.wait()


def die_with(launcher: int) -> None:
    """Ask the kernel, in a new child, to kill it when the launcher dies (Linux only)."""
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != launcher:  # it died before the request was made
            os._exit(1)


def kill_group(group: int) -> None:
    """Kill every process of a group; one that has none left is fine."""
    # macOS answers EPERM for a group that holds nothing but a zombie.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def group_alive(group: int) -> bool:
    """Whether a process group still has members."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """Return the last lines of a log file."""
    try:
        text = log.read_text(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


@contextlib.contextmanager
def stopping(
    supervisor: Supervisor, say: Callable[[str], None] = lambda text: None
) -> Iterator[Supervisor]:
    """Stop every service at the end of the block, however it ends."""
    try:
        yield supervisor
    finally:
        supervisor.stop(say)
