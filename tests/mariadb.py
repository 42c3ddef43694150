"""Find and start a real MariaDB server; see ``servers.py``, with which it shares the rules.

Only the standard library.
"""

from __future__ import annotations

import glob
import shutil
import socket
from pathlib import Path
from typing import Self
from urllib.parse import quote

from tests.servers import (
    START_SECONDS,
    Process,
    Server,
    ServerUnavailable,
    scratch,
    service_user,
)

__all__ = ["MariadbServer"]


class MariadbServer(Server):
    """A MariaDB server with a data directory of its own, reached through a Unix socket."""

    name = "mariadb"

    def __init__(self, *options: str) -> None:
        super().__init__()
        self.options = options
        self.directory: Path | None = None

    @staticmethod
    def find() -> str | None:
        """Return the server program, if there is one and what initialises its data."""
        if shutil.which("mariadb-install-db") is None:
            return None
        found = [shutil.which("mariadbd"), *glob.glob("/usr/sbin/mariadbd")]
        return next((path for path in found if path), None)

    @property
    def socket(self) -> str:
        """The Unix socket that the server listens on."""
        return f"{self.directory}/socket"

    @property
    def url(self) -> str:
        """The URL of the server; its host is the socket. The user is called root, as usual."""
        return f"mysql://root@{quote(self.socket, safe='')}/"

    def start(self) -> Self:
        program = self.find()
        if program is None:
            raise ServerUnavailable(
                "no MariaDB server programs; run `python scripts/servers.py install mariadb`"
            )
        user = service_user("mysql")  # it refuses root
        self.directory = scratch("my-", user)
        try:
            self._initialise(user)
            self._process = Process(
                [program, "--no-defaults", *self._settings()],
                self.directory / "log",
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
        """Whether the server takes connections: it greets whoever connects."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            try:
                probe.connect(self.socket)
                return bool(probe.recv(1))
            except OSError:
                return False

    def _initialise(self, user: str | None) -> None:
        command = [shutil.which("mariadb-install-db") or "", "--no-defaults"]
        command += [f"--datadir={self.directory}/data", "--skip-test-db", "--skip-name-resolve"]
        # Any local user may be its root, as with the other servers of the tests.
        command += ["--auth-root-authentication-method=normal"]
        log = Path(f"{self.directory}/install.log")
        process = Process(command, log, user=user)
        try:
            code = process.wait(START_SECONDS)
        finally:
            process.stop()
        if code:
            raise ServerUnavailable(f"mariadb-install-db failed\n{process.output()}")

    def _settings(self) -> list[str]:
        return [
            f"--datadir={self.directory}/data",
            f"--socket={self.socket}",
            f"--pid-file={self.directory}/pid",
            f"--tmpdir={self.directory}",
            "--skip-networking",
            "--character-set-server=utf8mb4",
            "--skip-log-bin",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-flush-method=nosync",
            "--innodb-doublewrite=OFF",
            "--innodb-buffer-pool-size=32M",
            "--performance-schema=OFF",
            *self.options,
        ]
