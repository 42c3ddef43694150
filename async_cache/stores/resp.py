"""The Redis protocol: pack commands, read replies. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

__all__ = [
    "INCOMPLETE",
    "ErrorReply",
    "ProtocolError",
    "PythonReader",
    "Reader",
    "new_reader",
    "pack",
]


class ErrorReply(Exception):
    """What the server answered instead of a value; its first word is a code."""

    @property
    def code(self) -> str:
        """The first word, such as ``NOSCRIPT``."""
        return str(self).partition(" ")[0]


class ProtocolError(Exception):
    """The server's bytes are no reply, so the connection cannot be used any more."""


class _Incomplete:
    def __repr__(self) -> str:
        return "INCOMPLETE"


INCOMPLETE: Final = _Incomplete()


class Reader(Protocol):
    """Turns bytes into replies as they come."""

    def feed(self, data: bytes, /) -> object:
        """Take bytes from the server."""

    def gets(self) -> Any:
        """Return the next reply, or INCOMPLETE."""

    def has_data(self) -> bool:
        """Tell whether bytes are left over."""


def pack(*words: bytes) -> bytes:
    """Return a command in the form that the server reads."""
    return b"*%d\r\n" % len(words) + b"".join(
        [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
    )


class _Short(Exception):
    pass


class PythonReader:
    """A reader for where hiredis is not installed."""

    def __init__(self) -> None:
        self._data = b""
        self._at = 0

    def feed(self, data: bytes, /) -> None:
        """Take bytes from the server."""
        self._data = self._data[self._at :] + data if self._data else data
        self._at = 0

    def has_data(self) -> bool:
        """Tell whether bytes are left over."""
        return self._at < len(self._data)

    def gets(self) -> Any:
        """Return the next reply, or INCOMPLETE."""
        try:
            reply, self._at = self._parse(self._at)
        except _Short:
            return INCOMPLETE
        except ValueError as error:
            raise ProtocolError("the server sent what is no reply") from error
        if self._at == len(self._data):
            self._data, self._at = b"", 0
        return reply

    def _parse(self, at: int) -> tuple[Any, int]:
        data = self._data
        end = data.find(b"\r\n", at)
        if end < 0:
            raise _Short
        kind = data[at]
        if kind == 36:  # $
            size = int(data[at + 1 : end])
            if size < 0:
                return None, end + 2
            stop = end + 2 + size
            if stop + 2 > len(data):
                raise _Short
            return data[end + 2 : stop], stop + 2
        if kind == 42:  # *
            count = int(data[at + 1 : end])
            at = end + 2
            if count < 0:
                return None, at
            items = []
            for _ in range(count):
                item, at = self._parse(at)
                items.append(item)
            return items, at
        return self._parse_line(kind, data[at + 1 : end]), end + 2

    @staticmethod
    def _parse_line(kind: int, line: bytes) -> Any:
        if kind == 43:  # +
            return line
        if kind == 58:  # :
            return int(line)
        if kind == 45:  # -
            return ErrorReply(line.decode("utf-8", "replace"))
        if kind == 95:  # _
            return None
        raise ValueError(kind)


def _find_reader() -> Callable[[], Reader]:
    try:
        import hiredis
    except ImportError:
        return PythonReader

    def make() -> Reader:
        reader: Reader = hiredis.Reader(
            protocolError=ProtocolError, replyError=ErrorReply, notEnoughData=INCOMPLETE
        )
        return reader

    return make


new_reader: Callable[[], Reader] = _find_reader()
"""Make a reader: of hiredis where it is installed, else one in Python."""
