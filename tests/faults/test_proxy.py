"""The proxy does to connections what its modes say."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from tests.faults.proxy import Mode, Proxy, address_of, through


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            while data := self.request.recv(65_536):
                self.request.sendall(data)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        with Proxy(("127.0.0.1", server.server_address[1])) as made:
            yield made
        server.shutdown()
        thread.join()


def connect(proxy: Proxy, timeout: float = 5.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout)


def echo(connection: socket.socket, data: bytes = b"hello") -> bytes:
    connection.sendall(data)
    return connection.recv(65_536)


def test_what_passes_is_counted(proxy: Proxy) -> None:
    with connect(proxy) as one:
        assert echo(one) == b"hello"
        assert (proxy.counts.connections, proxy.counts.open) == (1, 1)
        assert (proxy.counts.sent, proxy.counts.received) == (5, 5)
    deadline = time.monotonic() + 5
    while proxy.counts.open:
        assert time.monotonic() < deadline, "a closed connection stays open"


def test_refused(proxy: Proxy) -> None:
    with connect(proxy) as one:
        assert echo(one) == b"hello"
        proxy.set(Mode.REFUSE)
        assert one.recv(10) == b""
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
    proxy.set(Mode.PASS)
    with connect(proxy) as one:
        assert echo(one) == b"hello"


def test_reset(proxy: Proxy) -> None:
    with connect(proxy) as one:
        assert echo(one) == b"hello"
        proxy.set(Mode.RESET)
        with pytest.raises(ConnectionResetError):
            one.recv(10)
    with pytest.raises(ConnectionResetError), connect(proxy) as another:
        another.recv(10)


def test_a_black_hole_keeps_what_it_took(proxy: Proxy) -> None:
    with connect(proxy) as one:
        assert echo(one) == b"hello"
        proxy.set(Mode.BLACKHOLE)
        with connect(proxy) as another:
            for connection in (one, another):
                connection.settimeout(0.1)
                with pytest.raises(TimeoutError):
                    echo(connection)
                connection.settimeout(5)
            proxy.set(Mode.PASS)
            assert one.recv(10) == another.recv(10) == b"hello"


def test_dropped_syn(proxy: Proxy) -> None:
    with connect(proxy) as one:
        proxy.set(Mode.SYN_DROP)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                connect(proxy, 0.1)
        one.settimeout(0.1)
        with pytest.raises(TimeoutError):
            echo(one)
        one.settimeout(5)
        proxy.set(Mode.PASS)
        assert one.recv(10) == b"hello"
    with connect(proxy) as another:
        assert echo(another) == b"hello"


def test_delay(proxy: Proxy) -> None:
    proxy.delay(0.05)
    with connect(proxy) as one:
        begun = time.monotonic()
        assert echo(one) == b"hello"
        assert 0.1 <= time.monotonic() - begun < 2
        proxy.restore()
        assert echo(one) == b"hello"


def test_one_dropped_reply(proxy: Proxy) -> None:
    proxy.drop_reply(b"lost")
    with connect(proxy) as one:
        assert echo(one, b"kept") == b"kept"
        one.settimeout(0.1)
        with pytest.raises(TimeoutError):
            echo(one, b"lost")
        one.settimeout(5)
        assert echo(one, b"lost again") == b"lost again"
    assert proxy.counts.dropped == 1


def test_a_cut_message(proxy: Proxy) -> None:
    proxy.cut_request(3, b"publish")
    with connect(proxy) as one:
        assert echo(one, b"other") == b"other"
        sent = proxy.counts.sent
        one.sendall(b"to publish")
        with pytest.raises(ConnectionResetError):
            one.makefile("rb").read()
        assert proxy.counts.sent - sent == len(b"to pub")
    assert proxy.counts.cut == 1


def test_addresses_through_it(proxy: Proxy) -> None:
    assert address_of("redis://127.0.0.1:6379/0") == ("127.0.0.1", 6379)
    assert address_of("127.0.0.1:11211") == ("127.0.0.1", 11211)
    here = f"127.0.0.1:{proxy.port}"
    assert through("redis://127.0.0.1:6379/0", proxy) == f"redis://{here}/0"
    assert through("amqp://guest:guest@127.0.0.1:5672//", proxy) == f"amqp://guest:guest@{here}//"
    assert through("127.0.0.1:11211", proxy) == here
