"""A slow weather service: the remote source that the demo puts a cache in front of.

It answers after `delay` seconds, or fails after `delay` seconds when told to. The weather is made
up from the airport's code and the number of the reading, so each answer differs from the last.

    GET  /weather/AKL,HND   a list of readings, one for each code, in one slow answer
    GET  /control           how the service behaves and how often it was asked
    POST /control           {"delay": 3, "failing": false}
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

MAX_DELAY = 10.0
MAX_BODY = 1024
MAX_CODES = 100
SKIES = ("clear", "few clouds", "broken clouds", "overcast", "light rain", "rain", "fog")


class BadControl(ValueError):
    """A control message that this service does not accept."""


@dataclass
class Behaviour:
    """How the service answers, and how often it was asked for weather, and for which codes."""

    delay: float = 3.0
    failing: bool = False
    requests: int = 0
    readings: int = 0
    asked: dict[str, int] = field(default_factory=dict)


class Station:
    """The state shared by all request threads."""

    def __init__(self, delay: float = 3.0) -> None:
        self._lock = threading.Lock()
        self._behaviour = Behaviour(delay=delay)

    def change(self, wanted: object) -> Behaviour:
        """Apply a control message and return the new behaviour.

        Raises:
            BadControl: The message holds something that is not accepted.
        """
        if not isinstance(wanted, dict) or not set(wanted) <= {"delay", "failing"}:
            raise BadControl("send an object with 'delay' and 'failing'")
        delay = wanted.get("delay", self._behaviour.delay)
        failing = wanted.get("failing", self._behaviour.failing)
        if isinstance(delay, bool) or not isinstance(delay, int | float):
            raise BadControl("'delay' is a number of seconds")
        if not 0 <= delay <= MAX_DELAY:
            raise BadControl(f"'delay' lies between 0 and {MAX_DELAY:g} seconds")
        if not isinstance(failing, bool):
            raise BadControl("'failing' is true or false")
        with self._lock:
            self._behaviour.delay = float(delay)
            self._behaviour.failing = failing
            return Behaviour(**asdict(self._behaviour))

    def look(self) -> Behaviour:
        """Return a copy of the current behaviour."""
        with self._lock:
            return Behaviour(**asdict(self._behaviour))

    def read(self, codes: Sequence[str]) -> list[dict[str, Any]] | None:
        """Take a reading for each code, slowly. None when the service is told to fail."""
        with self._lock:
            self._behaviour.requests += 1
            asked, name = self._behaviour.asked, ",".join(codes)
            if name in asked or len(asked) < MAX_CODES:
                asked[name] = asked.get(name, 0) + 1
            first = self._behaviour.readings + 1
            self._behaviour.readings += len(codes)
            delay = self._behaviour.delay
        time.sleep(delay)
        if self.look().failing:
            return None
        now = datetime.now(UTC).isoformat()
        return [
            {"code": code, **make_up(code, number), "measured_at": now}
            for number, code in enumerate(codes, first)
        ]


def make_up(code: str, number: int) -> dict[str, Any]:
    """Return the made-up weather of one reading: the same for the same code and number."""
    base = random.Random(code).uniform(-5, 30)
    dice = random.Random(f"{code}:{number}")
    return {
        "reading": number,
        "temperature": round(base + dice.uniform(-2, 2), 1),
        "wind": dice.randint(0, 60),
        "sky": dice.choice(SKIES),
    }


class Handler(BaseHTTPRequestHandler):
    """Answers one request in a thread of its own."""

    protocol_version = "HTTP/1.1"

    @property
    def station(self) -> Station:
        """The state shared with the other request threads."""
        return cast(Server, self.server).station

    def do_GET(self) -> None:
        """Answer with a reading, or with the behaviour of the service."""
        if self.path == "/control":
            self.answer(HTTPStatus.OK, asdict(self.station.look()))
        elif self.path.startswith("/weather/"):
            codes = self.path.removeprefix("/weather/").split(",")
            if len(codes) > MAX_CODES:
                self.answer(HTTPStatus.BAD_REQUEST, {"error": f"at most {MAX_CODES} codes"})
                return
            readings = self.station.read(codes)
            if readings is None:
                self.answer(HTTPStatus.SERVICE_UNAVAILABLE, {"error": "told to fail"})
            else:
                self.answer(HTTPStatus.OK, {"readings": readings})
        else:
            self.answer(HTTPStatus.NOT_FOUND, {"error": "no such address"})

    def do_POST(self) -> None:
        """Change the behaviour of the service."""
        length = self.headers.get("Content-Length", "0")
        if self.path != "/control" or not length.isdigit() or int(length) > MAX_BODY:
            self.close_connection = True
            self.answer(HTTPStatus.BAD_REQUEST, {"error": "POST a small object to /control"})
            return
        try:
            behaviour = self.station.change(json.loads(self.rfile.read(int(length))))
        except ValueError as error:  # BadControl is one, and so is bad JSON
            self.answer(HTTPStatus.BAD_REQUEST, {"error": str(error)})
        else:
            self.answer(HTTPStatus.OK, asdict(behaviour))

    def answer(self, status: HTTPStatus, body: dict[str, Any]) -> None:
        """Send a JSON answer."""
        raw = json.dumps(body).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the caller gave up first: nobody to tell

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parent's name
        """Print a line for each request."""
        print(datetime.now(UTC).strftime("%H:%M:%S"), format % args, flush=True)


class Server(ThreadingHTTPServer):
    """The service on a socket that is bound already, or on a port of its own."""

    daemon_threads = True

    def __init__(self, sock: socket.socket, station: Station) -> None:
        super().__init__(sock.getsockname()[:2], Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = sock
        self.station = station
        self.server_activate()


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(description="A slow weather service.")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--fd", type=int, help="descriptor of a bound socket")
    where.add_argument("--port", type=int, default=8001)
    parser.add_argument("--delay", type=float, default=3.0, help="seconds before each answer")
    options = parser.parse_args()
    if options.fd is not None:
        sock = socket.socket(fileno=options.fd)
    else:
        sock = socket.create_server(("127.0.0.1", options.port))
    with Server(sock, Station(options.delay)) as server:
        print(f"weather on {server.server_address}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
