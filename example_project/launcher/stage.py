"""Everything the demo consists of, started in order and stopped in the reverse one."""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import redis

from .backing import Backing, check_url, choose, find_valkey, remove_keys, start_valkey
from .processes import DemoError, Supervisor, stopping

PROJECT = Path(__file__).resolve().parent.parent
QUEUES = "celery,upstream"
Say = Callable[[str], None]

# The launcher talks to this machine only; a proxy in the environment must not come in between.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Stage:
    """A demo that runs.

    Attributes:
        url: Where the pages are.
        upstream: Where the slow weather service is.
        backing: What serves as cache and broker.
        logs: The directory that holds what each process prints.
        password: That of the user `demo` of the admin.
    """

    url: str
    upstream: str
    backing: Backing
    logs: Path
    password: str


@contextmanager
def running_stage(
    run: Path, supervisor: Supervisor, *, forced: str | None, delay: float, say: Say
) -> Iterator[Stage]:
    """Start everything for the length of the block, then stop all of it.

    Services stop in the reverse order of their start: first the web server, which no longer asks
    for refreshes; then the weather service, so that a fetch in its middle ends; then Celery beat
    and the worker, which still has a broker to say goodbye to; the cache last.
    """
    valkey = find_valkey()
    backing = choose(os.environ, forced, valkey)
    redis_url = os.environ["REDIS_URL"] if backing is Backing.URL else ""
    if redis_url:
        check_url(redis_url)
    prefix = f"async-cache-demo:{secrets.token_hex(4)}"
    with open_port(os.environ.get("PORT")) as web, open_port(None) as upstream:
        try:
            with stopping(supervisor, say):
                if backing is Backing.VALKEY and valkey is not None:
                    say("starting cache and broker (Valkey)")
                    redis_url = start_valkey(valkey, run, supervisor)
                environment = make_environment(
                    os.environ, run, redis_url, address(upstream), prefix
                )
                stage = Stage(
                    address(web),
                    address(upstream),
                    backing,
                    supervisor.logs,
                    environment["DEMO_PASSWORD"],
                )
                _prepare(supervisor, environment, say)
                say("starting worker, beat, weather service and web server")
                _start(supervisor, environment, web, upstream, delay)
                # From here on only the services hold the sockets: one that ends closes its port.
                web.close()
                upstream.close()
                _await(supervisor, environment, stage)
                yield stage
        finally:
            if backing is Backing.URL:
                _tidy(redis_url, prefix, say)


def _prepare(supervisor: Supervisor, environment: Mapping[str, str], say: Say) -> None:
    """Make the database ready."""
    say("creating the database and loading the data")
    command = [sys.executable, str(PROJECT / "manage.py"), "setup_demo"]
    output = supervisor.run("setup", command, environment)
    say(output.strip().splitlines()[-1])


def _start(
    supervisor: Supervisor,
    environment: Mapping[str, str],
    web: socket.socket,
    upstream: socket.socket,
    delay: float,
) -> None:
    """Start the services of the project, in the reverse order of their stopping."""
    supervisor.start("worker", worker_command(), environment, patience=8, cwd=PROJECT)
    if environment["DEMO_REDIS_URL"]:
        supervisor.start("camera", camera_command(), environment, patience=3, cwd=PROJECT)
    supervisor.start("beat", beat_command(environment), environment, patience=3, cwd=PROJECT)
    fd = upstream.fileno()
    command = [sys.executable, "upstream.py", f"--fd={fd}", f"--delay={delay:g}"]
    supervisor.start(
        "weather service", command, environment, patience=1, pass_fds=[fd], cwd=PROJECT
    )
    fd = web.fileno()
    command = [sys.executable, "serve.py", f"--fd={fd}"]
    supervisor.start("web server", command, environment, patience=5, pass_fds=[fd], cwd=PROJECT)


def _await(supervisor: Supervisor, environment: Mapping[str, str], stage: Stage) -> None:
    """Wait until every service of the project answers."""
    ready = Path(environment["DEMO_WORKER_READY"])
    supervisor.wait("the weather service", lambda: healthy(f"{stage.upstream}/control"), 20)
    supervisor.wait("the web server", lambda: healthy(f"{stage.url}/health/"), 60)
    supervisor.wait("the worker", ready.exists, 60)


def _tidy(url: str, prefix: str, say: Say) -> None:
    """Leave nothing on a server that is not ours; when it is gone, say so."""
    try:
        removed = remove_keys(url, prefix)
    except (redis.RedisError, OSError) as error:
        say(f"could not remove the keys of this run from REDIS_URL: {error}")
    else:
        say(f"removed {removed} keys of this run from REDIS_URL")


def worker_command() -> list[str]:
    """Return the command line of the Celery worker."""
    return [
        *(sys.executable, "-m", "celery", "-A", "demo_site", "worker"),
        *("-Q", QUEUES, "--concurrency=2", "--loglevel=INFO"),
        *("--without-gossip", "--without-mingle"),
    ]


def camera_command() -> list[str]:
    """Return the command line of what writes workers and tasks into the database."""
    return [
        *(sys.executable, "-m", "celery", "-A", "demo_site", "events"),
        *("--camera", "async_cache.monitor.Camera"),
    ]


def beat_command(environment: Mapping[str, str]) -> list[str]:
    """Return the command line of Celery beat; what it notes lies in the run's directory."""
    return [
        *(sys.executable, "-m", "celery", "-A", "demo_site", "beat", "--loglevel=INFO"),
        *("--pidfile", "", "--schedule", str(Path(environment["DEMO_DIR"]) / "beat-schedule")),
    ]


def make_environment(
    base: Mapping[str, str], run: Path, redis_url: str, upstream: str, prefix: str
) -> dict[str, str]:
    """Return the environment that all Python processes of one run share."""
    return {
        **base,
        "DJANGO_SETTINGS_MODULE": "demo_site.settings",
        "PYTHONUNBUFFERED": "1",
        "DEMO_DIR": str(run),
        "DEMO_REDIS_URL": redis_url,
        "DEMO_KEY_PREFIX": prefix,
        "DEMO_UPSTREAM_URL": upstream,
        "DEMO_SECRET_KEY": secrets.token_urlsafe(32),
        "DEMO_PASSWORD": secrets.token_hex(4),
        "DEMO_WORKER_READY": str(run / "worker-ready"),
    }


def open_port(wanted: str | None) -> socket.socket:
    """Open a listening socket on this machine: on `wanted`, or on any free port.

    Raises:
        DemoError: `wanted` is no port, or is taken.
    """
    if wanted is None or wanted == "":
        return socket.create_server(("127.0.0.1", 0))
    if not wanted.isascii() or not wanted.isdigit() or not 0 <= int(wanted) <= 65535:
        raise DemoError(f"PORT={wanted!r} is not a port. Give a number from 0 to 65535.")
    try:
        return socket.create_server(("127.0.0.1", int(wanted)))
    except OSError as error:
        raise DemoError(
            f"PORT={wanted} cannot be had: {error.strerror}. "
            "Choose another, or unset PORT to get a free one."
        ) from error


def address(sock: socket.socket) -> str:
    """Return the http address of a listening socket."""
    host, port = sock.getsockname()[:2]
    return f"http://{host}:{port}"


def healthy(url: str) -> bool:
    """Whether an address answers with success."""
    try:
        with _opener.open(url, timeout=2) as answer:
            return bool(answer.status == HTTPStatus.OK)
    except (OSError, urllib.error.HTTPError):
        return False


def control(upstream: str, **behaviour: Any) -> dict[str, Any]:
    """Tell the weather service how to behave; without arguments ask how it does."""
    data = json.dumps(behaviour).encode() if behaviour else None
    with _opener.open(f"{upstream}/control", data, timeout=5) as answer:
        body: dict[str, Any] = json.load(answer)
        return body
