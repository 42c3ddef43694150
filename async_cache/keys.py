"""Name things: the call behind a ``get``, its digest, and the cache keys around it."""

from __future__ import annotations

import inspect
import re
from base64 import b32encode
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final

from async_cache.canonical import (
    Refusal,
    Tagged,
    canonical,
    encode_argument,
)
from async_cache.exceptions import UnkeyableArgument

__all__ = [
    "Call",
    "CallSignature",
    "Keyspace",
    "Refusal",
    "Tagged",
    "bind_call",
    "call",
    "call_digest",
    "canonical",
    "detached",
    "encode_argument",
    "tag_epoch",
    "tag_stamp",
]


@dataclass(frozen=True, slots=True)
class Call:
    """The arguments of one call.

    Attributes:
        args: Positional arguments.
        kwargs: Keyword arguments. In a bound call only those that cannot be positional.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def call(*args: Any, **kwargs: Any) -> Call:
    """Name the arguments of one call, for ``get_many`` and ``refresh_many``."""
    return Call(args, kwargs)


def detached(call: Call) -> Call:
    """Return the call with containers of its own: a caller or a fetch may change the others."""
    args = tuple(map(_copied, call.args))
    return Call(args, {name: _copied(value) for name, value in call.kwargs.items()})


def _copied(value: Any) -> Any:
    kind = type(value)
    if kind is list or kind is tuple:
        return kind(map(_copied, value))
    if kind is dict or kind is OrderedDict:
        return kind((key, _copied(item)) for key, item in value.items())
    return kind(value) if kind is set or kind is bytearray else value


class CallSignature:
    """How a job may be called: the parameters of its fetch, or of its constructor.

    Args:
        name: The job's name, for errors.
        function: The function whose arguments are bound.
        method: Whether the first parameter is ``self`` and not part of a call.

    Attributes:
        wants_ctx: Whether the function has a keyword-only parameter ``ctx``. It is no part of a
            call: who runs the fetch passes it.
    """

    def __init__(self, name: str, function: Callable[..., Any], *, method: bool = False) -> None:
        self.name = name
        self._function = getattr(function, "__name__", type(function).__name__)
        parameters = list(inspect.signature(function).parameters.values())
        if method and parameters and parameters[0].kind in _POSITIONAL:
            del parameters[0]
        ctx = [p for p in parameters if p.name == "ctx" and p.kind is p.KEYWORD_ONLY]
        self.wants_ctx = bool(ctx)
        parameters = [p for p in parameters if p not in ctx]
        self._signature = inspect.Signature(parameters)
        positional = [p for p in parameters if p.kind in _POSITIONAL]
        keyword = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
        self._names = tuple(p.name for p in positional)
        self._fixed = len(positional)
        self._named = frozenset(p.name for p in positional if p.kind is not p.POSITIONAL_ONLY)
        self._keyword = tuple(p.name for p in keyword)
        self._defaults = {
            p.name: p.default for p in positional + keyword if p.default is not p.empty
        }
        self._rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
        self._extra = next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), None)

    def __str__(self) -> str:
        return f"{self._function}{self._signature}"

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        """Return the one call that `args` and `kwargs` make, however they were passed.

        Raises:
            TypeError: They do not fit the function.
        """
        count = len(args)
        if not kwargs and not self._keyword and count == self._fixed:
            return Call(args, {})
        if count > self._fixed and self._rest is None:
            raise self._misfit(args, kwargs)
        left = dict(kwargs)
        bound = list(args)
        for name in self._names[:count]:
            if name in left and name in self._named:
                raise self._misfit(args, kwargs)
        for name in self._names[count:]:
            if name in left and name in self._named:
                bound.append(left.pop(name))
            elif name in self._defaults:
                bound.append(self._defaults[name])
            else:
                raise self._misfit(args, kwargs)
        keywords = {}
        for name in self._keyword:
            if name in left:
                keywords[name] = left.pop(name)
            elif name in self._defaults:
                keywords[name] = self._defaults[name]
            else:
                raise self._misfit(args, kwargs)
        if left:
            if self.wants_ctx and "ctx" in left:
                raise TypeError(f"{self.name}: ctx is no part of a call; a refresh passes it")
            if self._extra is None:
                raise self._misfit(args, kwargs)
            keywords.update(left)
        return Call(tuple(bound), keywords)

    def encode(self, call: Call) -> bytes:
        """Return the bytes that name a call, which `bind` has made.

        Raises:
            UnkeyableArgument: An argument has no canonical form; the error names it.
        """
        try:
            parts = list(map(canonical, call.args, self._names))
            for index, value in enumerate(call.args[self._fixed :]):
                parts.append(canonical(value, f"*{self._rest}[{index}]"))
            for name in sorted(call.kwargs):
                parts.append(canonical(name) + canonical(call.kwargs[name], name))
        except UnkeyableArgument as error:
            raise UnkeyableArgument(f"{self.name}: {error}") from error.__cause__
        return b"%d:%b" % (len(call.args), b"".join(parts))

    def _misfit(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> TypeError:
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            return TypeError(f"{self.name}: {error}; the job takes what {self} takes")
        # Python 3.13.0 binds a missing positional-only argument that **extra takes by its name.
        return TypeError(f"{self.name}: an argument is missing; the job takes what {self} takes")


def bind_call(signature: CallSignature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """Return the one call that `args` and `kwargs` make under a signature."""
    return signature.bind(args, kwargs)


def call_digest(job_name: str, constructor: bytes, call: bytes, context: bytes = b"") -> str:
    """Return the digest of one call of one job: 32 characters of ``[a-z2-7]``.

    Args:
        job_name: The job's name.
        constructor: The job's constructor arguments, in canonical form.
        call: The bound call, in canonical form.
        context: What the job varies by, in canonical form.
    """
    name = job_name.encode()
    named = b"%d:%d:%d:%b%b%b%b" % (
        *(len(name), len(constructor), len(call)),
        *(name, constructor, call, context),
    )
    return b32encode(blake2b(named, digest_size=20).digest()).decode("ascii").lower()


class Keyspace:
    """The cache keys of one version of one job.

    A digest has 32 characters and no other segment of a key does the same in its place, so two
    keys of different kinds are never equal. Stamps carry no version: they reach every one.
    """

    __slots__ = ("_job", "_version")

    def __init__(self, prefix: str, job_name: str, version: int | str = 1) -> None:
        self._job = f"{_segment(prefix, _PREFIX, 16)}:{_segment(job_name, _DOTTED, 80)}:"
        self._version = f"{self._job}{_segment(str(version), _PLAIN, 24)}:"

    def entry(self, digest: str) -> str:
        """Return the key of a call's entry."""
        return self._version + digest

    def lease(self, digest: str) -> str:
        """Return the key of the right to refresh a call."""
        return f"{self._version}{digest}:lease"

    def failure(self, digest: str) -> str:
        """Return the key of the record of a call's last failed fetch."""
        return f"{self._version}{digest}:failure"

    def trace(self, digest: str) -> str:
        """Return the key where a validated store remembers an unfinished claim."""
        return f"{self._version}{digest}:trace"

    def job_stamp(self) -> str:
        """Return the key of the stamp that clears the job."""
        return self._job + "stamp"

    def soft_stamp(self, digest: str) -> str:
        """Return the key of the stamp that makes a call's entry stale."""
        return f"{self._job}{digest}:soft"

    def hard_stamp(self, digest: str) -> str:
        """Return the key of the stamp that deletes a call's entry."""
        return f"{self._job}{digest}:hard"

    def members(self) -> str:
        """Return the key of the set of the job's entries, for ``max_keys``."""
        return self._job + "members"


def tag_stamp(prefix: str, tag: str) -> str:
    """Return the key of a tag's stamp."""
    return f"{_segment(prefix, _PREFIX, 16)}:-tag:{_segment(tag, _TAG, 100)}"


def tag_epoch(prefix: str) -> str:
    """Return the key of the stamp that moves with every invalidation of tags."""
    return f"{_segment(prefix, _PREFIX, 16)}:-epoch"


_POSITIONAL: Final = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
)

_PREFIX: Final = re.compile(r"[A-Za-z0-9_-]+")
_DOTTED: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]+([.][A-Za-z0-9_-]+)*")
_TAG: Final = re.compile(r"[A-Za-z0-9_:-]+([.][A-Za-z0-9_:-]+)*")
_ODD: Final = re.compile(r"[^A-Za-z0-9_]+")


def _segment(text: str, safe: re.Pattern[str], length: int) -> str:
    """Return `text` when it is safe and short, else its start, two dots and a hash of all of it.

    Safe text never holds two dots, so what is shortened never equals what is not.
    """
    if len(text) <= length and safe.fullmatch(text):
        return text
    digest = b32encode(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=15).digest())
    start = _ODD.sub(".", text[: max(length - 26, 0)]).strip(".")
    return f"{start}..{digest.decode('ascii').lower()}"
