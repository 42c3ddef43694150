# ruff: noqa: D102  (the contract, in base.py, documents the operations)
"""What a Redis store says and how it reads the answers, without any I/O.

Each operation is a generator: it yields a `Request`, is sent the replies, and returns its result.
`RedisStore` and its async twin only carry the bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

from async_cache.entry import new_stamp
from async_cache.leases import Lease, Phase
from async_cache.stores.base import Claim, Claimed, Commit, Outcome
from async_cache.stores.resp import ErrorReply, pack
from async_cache.stores.scripts import CLAIM, COMMIT, RELEASE, RENEW, Script

__all__ = ["Exchange", "Exchanges", "Request"]

# Commands sent in one go; more are sent in turns, each with its own time limit.
BATCH = 200
LONGEST_MS = 10 * 366 * 86_400_000

T = TypeVar("T")


class Request(NamedTuple):
    """Packed commands, and the number of replies they get."""

    data: bytes
    replies: int


Exchange: TypeAlias = Generator[Request, list[Any], T]


def _ms(seconds: float) -> bytes:
    return b"%d" % max(1, round(min(seconds * 1000, LONGEST_MS)))


def _holder(phase: int, attempts: int, token: bytes | None) -> Lease | None:
    return Lease(Phase(phase), token, attempts) if phase and token else None


class Exchanges:
    """The operations of a Redis store.

    Args:
        make_key: The alias's own; turns a name into the key on the server.
    """

    def __init__(self, make_key: Callable[[str], str]) -> None:
        self._make_key = make_key

    def key(self, name: str) -> bytes:
        """Return a name's key on the server."""
        return str(self._make_key(name)).encode()

    def prepare(self, names: Sequence[str]) -> bytes:
        """Return the packed command that reads these names."""
        return pack(b"MGET", *map(self.key, names))

    def read_many(self, handles: Sequence[bytes]) -> Exchange[list[list[bytes | None]]]:
        found: list[list[bytes | None]] = yield from self.send(handles)
        return found

    def claim(self, claims: Sequence[Claim]) -> Exchange[list[Claimed]]:
        replies = yield from self.run(CLAIM, [self._claim(c) for c in claims])
        return [self._claimed(c, reply) for c, reply in zip(claims, replies, strict=True)]

    def _claim(self, c: Claim) -> list[bytes]:
        names = (c.lease, c.members or c.lease, *c.stamps, *c.reads)
        return [
            b"%d" % len(names),
            *map(self.key, names),
            c.token,
            b"%d" % c.phase,
            _ms(c.seconds),
            _ms(c.life),
            c.member.encode(),
            b"%d" % (c.max_members if c.members is not None else 0),
            _ms(c.stamp_life),
            *(new_stamp() for _ in c.stamps),
        ]

    @staticmethod
    def _claimed(c: Claim, reply: list[Any]) -> Claimed:
        won, full, phase, attempts, token = reply[:5]
        values = reply[5:]
        cut = len(c.stamps)
        return Claimed(
            won=bool(won),
            holder=_holder(phase, attempts, token),
            attempts=attempts,
            stamps=tuple(values[:cut]) if won else (),
            values=tuple(values[cut:]),
            full=bool(full),
        )

    def commit(self, commits: Sequence[Commit]) -> Exchange[list[Outcome]]:
        replies = yield from self.run(COMMIT, [self._commit(c) for c in commits])
        return [Outcome(reply.decode()) for reply in replies]

    def _commit(self, c: Commit) -> list[bytes]:
        first = c.lease if c.lease is not None else c.trace
        names = [first, c.members or first]
        names += [name for name, _ in c.expect]
        names += [name for name, _ in c.extend]
        names += [name for name, _, _ in c.puts]
        names += c.removes
        return [
            b"%d" % len(names),
            *map(self.key, names),
            b"%d" % (c.lease is not None),
            c.token,
            c.member.encode(),
            b"%d" % (c.max_members if c.members is not None else 0),
            b"%d" % len(c.expect),
            b"%d" % len(c.extend),
            b"%d" % len(c.puts),
            *(value for _, value in c.expect),
            *(_ms(seconds) for _, seconds in c.extend),
            *(word for _, value, seconds in c.puts for word in (value, _ms(seconds))),
        ]

    def renew(self, leases: Sequence[tuple[str, bytes, float]]) -> Exchange[list[bool]]:
        calls = [[b"1", self.key(name), token, _ms(seconds)] for name, token, seconds in leases]
        replies = yield from self.run(RENEW, calls)
        return [bool(reply) for reply in replies]

    def release(self, leases: Sequence[tuple[str, bytes, str]]) -> Exchange[None]:
        yield from self.run(RELEASE, [[b"1", self.key(name), token] for name, token, _ in leases])

    def holders(self, leases: Sequence[str]) -> Exchange[list[Lease | None]]:
        if not leases:
            return []
        (clock, records) = yield from self.send([pack(b"TIME"), self.prepare(leases)])
        now = int(clock[0]) * 1000 + int(clock[1]) // 1000
        return [self._live(record, now) for record in records]

    @staticmethod
    def _live(record: bytes | None, now: int) -> Lease | None:
        phase, attempts, ends, token = (*(record or b"").split(b":", 3), b"", b"", b"")[:4]
        if not (phase in (b"1", b"2") and attempts.isdigit() and ends.isdigit() and token):
            return None
        return Lease(Phase(int(phase)), token, int(attempts)) if int(ends) > now else None

    def put(self, items: Sequence[tuple[str, bytes, float]]) -> Exchange[None]:
        yield from self.send(
            [pack(b"SET", self.key(n), value, b"PX", _ms(seconds)) for n, value, seconds in items]
        )

    def remove(self, names: Sequence[str]) -> Exchange[None]:
        if names:
            yield from self.send([pack(b"DEL", *map(self.key, names))])

    def send(self, commands: Sequence[bytes]) -> Exchange[list[Any]]:
        replies: list[Any] = []
        for at in range(0, len(commands), BATCH):
            batch = commands[at : at + BATCH]
            replies += yield Request(b"".join(batch), len(batch))
        for reply in replies:
            if isinstance(reply, ErrorReply):
                raise reply
        return replies

    def run(self, script: Script, calls: Sequence[list[bytes]]) -> Exchange[list[Any]]:
        """Run a script once for each call; a server that does not know it is taught it first."""
        commands = [pack(b"EVALSHA", script.sha, *call) for call in calls]
        replies: list[Any] = []
        for at in range(0, len(commands), BATCH):
            batch = commands[at : at + BATCH]
            got = yield Request(b"".join(batch), len(batch))
            unknown = [
                i for i, r in enumerate(got) if isinstance(r, ErrorReply) and r.code == "NOSCRIPT"
            ]
            if unknown:
                load = pack(b"SCRIPT", b"LOAD", script.source)
                again = b"".join([load, *(batch[i] for i in unknown)])
                _, *answers = yield Request(again, len(unknown) + 1)
                for i, answer in zip(unknown, answers, strict=True):
                    got[i] = answer
            replies += got
        for reply in replies:
            if isinstance(reply, ErrorReply):
                raise reply
        return replies
