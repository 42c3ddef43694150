"""A TCP proxy on the loopback interface that breaks what passes through it.

It stands between a client and a real server, in a thread of the test's own process:

    with Proxy(("127.0.0.1", 6379)) as proxy:
        client = connect("127.0.0.1", proxy.port)
        proxy.set(Mode.BLACKHOLE)     # from here on the server is silent
        proxy.set(Mode.PASS)          # and goes on as if nothing had been

A `Mode` concerns all connections, those that are open as much as those to come, and is in force
when `Proxy.set` returns. `Proxy.delay`, `Proxy.drop_reply` and `Proxy.cut_request` go with
`Mode.PASS`. `Proxy.counts` tells what has passed.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from enum import Enum
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

from tests.servers import free_port

__all__ = ["Counts", "Mode", "Proxy", "address_of", "through"]

CHUNK: Final = 65_536
RESET: Final = struct.pack("ii", 1, 0)
"""What SO_LINGER needs for a close to send RST in place of FIN."""

SECONDS: Final = 10.0
T = TypeVar("T")


class Mode(Enum):
    """What becomes of connections."""

    PASS = "pass"
    """They pass."""

    REFUSE = "refuse"
    """Nobody listens; open ones are closed, as by a server that has ended."""

    RESET = "reset"
    """They are accepted and reset at once; so are open ones."""

    BLACKHOLE = "blackhole"
    """They are accepted and nothing moves; what was sent arrives once they pass again."""

    SYN_DROP = "syn_drop"
    """The first packet of new ones is dropped; nothing moves on open ones."""


@dataclass
class Counts:
    """What has gone through a proxy.

    Attributes:
        connections: Accepted so far.
        open: Of these, how many are open.
        sent: Bytes from clients to the server.
        received: Bytes from the server to clients.
        dropped: Replies dropped.
        cut: Messages cut.
    """

    connections: int = 0
    open: int = 0
    sent: int = 0
    received: int = 0
    dropped: int = 0
    cut: int = 0


@dataclass
class _Trap:
    """A fault that strikes messages that contain some bytes."""

    match: bytes
    times: float
    after: int = 0

    def strikes(self, data: bytes) -> bool:
        return self.times > 0 and self.match in data


@dataclass(eq=False)
class _Pair:
    """Both ends of one connection through the proxy."""

    client: socket.socket
    server: socket.socket | None = None
    awaits_drop: bool = False
    resets: bool = False
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def close(self) -> None:
        for end in (self.client, self.server):
            if end is not None and end.fileno() >= 0:
                if self.resets:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                end.close()


class Proxy:
    """Forwards connections to a server, or does something worse with them.

    Args:
        server: Host and port of the real server.

    Attributes:
        port: Where clients connect, on 127.0.0.1; the same for the proxy's whole life.
    """

    def __init__(self, server: tuple[str, int]) -> None:
        self.server = server
        self.port = free_port()
        self._counts = Counts()
        self._mode = Mode.PASS
        self._latency = 0.0
        self._drop = _Trap(b"", 0)
        self._cut = _Trap(b"", 0)
        self._pairs: set[_Pair] = set()
        self._listener: socket.socket | None = None
        self._accepting = False
        self._crowd: list[socket.socket] = []
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self.set(Mode.PASS)

    # --- what a test says ------------------------------------------------------------------------

    @property
    def mode(self) -> Mode:
        """The mode in force."""
        return self._mode

    @property
    def counts(self) -> Counts:
        """What has gone through so far: a copy."""
        return replace(self._counts, open=len(self._pairs))

    def set(self, mode: Mode) -> None:
        """Put a mode in force."""
        self._run(self._set(mode))

    def delay(self, seconds: float) -> None:
        """Let all bytes travel so many seconds each way; 0 for none."""
        self._latency = seconds

    def drop_reply(self, match: bytes = b"", times: float = 1) -> None:
        """Drop the reply to the next messages that contain ``match``; the connection stays open."""
        self._drop = _Trap(match, times)

    def cut_request(self, after: int, match: bytes = b"", times: float = 1) -> None:
        """Pass so many bytes of the next messages that contain ``match``, and reset."""
        self._cut = _Trap(match, times, after)

    def restore(self) -> None:
        """Let everything pass again."""
        self.delay(0)
        self.drop_reply(times=0)
        self.cut_request(0, times=0)
        self.set(Mode.PASS)

    def close(self) -> None:
        """End the proxy and its connections."""
        if self._thread.is_alive():
            self._run(self._close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(SECONDS)
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(SECONDS)

    # --- modes, in the proxy's thread ------------------------------------------------------------

    async def _set(self, mode: Mode) -> None:
        accepts = self._accepting and mode not in (Mode.REFUSE, Mode.SYN_DROP)
        if not accepts:
            self._stop_listening()
        self._mode = mode
        if mode is Mode.PASS:
            self._flowing.set()
        else:
            self._flowing.clear()
        if mode in (Mode.REFUSE, Mode.RESET):
            await self._drop_pairs(reset=mode is Mode.RESET)
        if not accepts:
            await self._listen()

    async def _listen(self) -> None:
        self._listener = listener = socket.socket()
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        if self._mode is Mode.REFUSE:
            return  # the port stays ours
        if self._mode is Mode.SYN_DROP:
            listener.listen(0)
            await self._fill_backlog()
            return
        listener.listen(256)
        self._loop.add_reader(listener, self._accept, listener)
        self._accepting = True

    def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if self._accepting and listener is not None:
            self._loop.remove_reader(listener)
            self._accepting = False
            self._accept(listener)  # those that wait for it are open as well
        for one in (listener, *self._crowd):
            if one is not None:
                one.close()
        self._crowd.clear()

    async def _fill_backlog(self) -> None:
        """Connect until the kernel drops what comes, as with a server that never accepts."""
        while True:
            one = socket.socket()
            one.setblocking(False)
            self._crowd.append(one)
            try:
                await asyncio.wait_for(
                    self._loop.sock_connect(one, ("127.0.0.1", self.port)), timeout=0.1
                )
            except TimeoutError:
                return

    async def _drop_pairs(self, *, reset: bool) -> None:
        pairs = list(self._pairs)
        for pair in pairs:
            pair.resets = reset
            for task in pair.tasks:
                task.cancel()
        tasks = [task for pair in pairs for task in pair.tasks]
        await asyncio.gather(*tasks, return_exceptions=True)
        for pair in pairs:
            pair.close()  # whose task had not begun
            self._pairs.discard(pair)

    async def _close(self) -> None:
        self._stop_listening()
        await self._drop_pairs(reset=True)

    # --- connections -----------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except BlockingIOError:
                return
            self._counts.connections += 1
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = _Pair(client, resets=self._mode is Mode.RESET)
            if pair.resets:
                pair.close()
            else:
                self._pairs.add(pair)
                pair.tasks.append(self._loop.create_task(self._carry(pair)))

    async def _carry(self, pair: _Pair) -> None:
        try:
            await self._flowing.wait()
            pair.server = server = socket.socket()
            server.setblocking(False)
            await self._loop.sock_connect(server, self.server)
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.TaskGroup() as group:
                for source, target, sends in (
                    (pair.client, server, True),
                    (server, pair.client, False),
                ):
                    queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
                    group.create_task(self._read(source, queue))
                    group.create_task(self._write(pair, target, queue, sends=sends))
        except* OSError as errors:
            pair.resets = errors.subgroup(ConnectionResetError) is not None
        finally:
            pair.close()
            self._pairs.discard(pair)

    async def _read(self, source: socket.socket, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
        while True:
            data = await self._loop.sock_recv(source, CHUNK)
            queue.put_nowait((self._loop.time() + self._latency, data))
            if not data:
                return
            await self._flowing.wait()

    async def _write(
        self,
        pair: _Pair,
        target: socket.socket,
        queue: asyncio.Queue[tuple[float, bytes]],
        *,
        sends: bool,
    ) -> None:
        while True:
            due, data = await queue.get()
            await asyncio.sleep(due - self._loop.time())
            await self._flowing.wait()
            if not data:
                raise ConnectionAbortedError("an end was closed")
            if sends:
                await self._forward(pair, target, data)
            elif pair.awaits_drop:
                pair.awaits_drop = False
                self._counts.dropped += 1
            else:
                self._counts.received += len(data)
                await self._loop.sock_sendall(target, data)

    async def _forward(self, pair: _Pair, target: socket.socket, data: bytes) -> None:
        if self._drop.strikes(data):
            self._drop.times -= 1
            pair.awaits_drop = True
        cut = self._cut.strikes(data)
        if cut:
            self._cut.times -= 1
            self._counts.cut += 1
            data = data[: data.find(self._cut.match) + self._cut.after]
        self._counts.sent += len(data)
        await self._loop.sock_sendall(target, data)
        if cut:
            raise ConnectionResetError("cut")


def address_of(url: str) -> tuple[str, int]:
    """Return host and port of a URL, or of ``host:port``."""
    parts = urlsplit(url if "//" in url else f"//{url}")
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def through(url: str, proxy: Proxy) -> str:
    """Return a URL, or ``host:port``, with the proxy in the place of the server."""
    if "//" not in url:
        return f"127.0.0.1:{proxy.port}"
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{proxy.port}"))
