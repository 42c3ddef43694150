"""Poison: bytes that would run code, or fill the memory, if they were believed. Pure."""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final

from async_cache.entry import _FIXED, COMPRESSED, MAC_SIZE, NEGATIVE, STAMP_SIZE, KeyRing
from async_cache.serializers.rows import _load_own, _load_shape

__all__ = ["GADGETS", "HEAD", "PAYLOAD_AT", "bomb", "disguises"]

HEAD: Final = _FIXED.size
"""Bytes of an entry's header, behind the seal."""
PAYLOAD_AT: Final = HEAD + 3 * STAMP_SIZE
"""Where the payload of an entry without tags begins, behind the seal."""


class _Reduced:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *args: Any, state: Any = None) -> None:
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self) -> Any:
        return self.reduced


def _chain() -> Any:
    """Return an import in a call in a call, in the key and in the value of a dict."""
    inner = _Reduced(__import__, "this")
    return {_Reduced(getattr, inner, "s"): [(_Reduced(getattr, inner, "c"), 1)]}


def _objects() -> Iterator[Any]:
    import importlib
    import os
    import subprocess

    from django.utils.module_loading import import_string

    yield _Reduced(os.system, ":")
    yield _Reduced(os.popen, ":")
    yield _Reduced(subprocess.Popen, ["true"])
    yield _Reduced(exec, "import this")
    yield _Reduced(eval, "__import__('this')")
    yield _Reduced(importlib.import_module, "this")
    yield _Reduced(import_string, "this.c")
    yield _chain()
    yield ("plain", [_Reduced(os.system, ":")])
    yield _Reduced(dict, state={"a": _Reduced(os.system, ":")})
    # By way of our own: what loads rows calls what the bytes name.
    yield _Reduced(_load_own, "library", "author", b"", os.system, (":",))
    yield _Reduced(_load_shape, "library", "author", b"", None, None, False)


def _by_hand() -> Iterator[bytes]:
    """Yield what `pickle.dumps` does not write: each opcode that finds or calls something."""
    yield b"cos\nsystem\n(S':'\ntR."  # GLOBAL, REDUCE
    yield b"(S':'\nios\nsystem\n."  # INST
    yield b"(cos\nsystem\nS':'\no."  # OBJ
    yield b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x01:\x85R."  # STACK_GLOBAL
    yield b"\x80\x04\x8c\x04this\x8c\x01c\x93."  # an import and nothing else
    yield b"cthis\nc\n."
    yield b"\x80\x02cos\nsystem\nU\x01:\x85\x81."  # NEWOBJ
    yield b"\x80\x02c__builtin__\nexec\nX\x0b\x00\x00\x00import this\x85R."
    yield b"cbuiltins\neval\n(V__import__('os').system(':')\ntR."
    yield b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93\x8c\x02os\x8c\x06system\x86R."
    yield b"\x82\x01."  # an extension of copyreg
    yield b"P1\n."  # a persistent id


GADGETS: Final[tuple[bytes, ...]] = (
    *_by_hand(),
    *(pickle.dumps(one, protocol) for one in _objects() for protocol in (0, 2, 4, 5)),
)


def disguises(own: bytes, gadget: bytes, ring: KeyRing, place: str) -> Iterator[bytes]:
    """Yield stored bytes that hold a gadget and look like an entry, or are none.

    Args:
        own: A real entry of the key, whose seal will not fit any more.
        gadget: The payload.
        ring: Not the project's secrets.
        place: What the seal is bound to.
    """
    head, stamps = own[MAC_SIZE:][:HEAD], own[MAC_SIZE:][HEAD:PAYLOAD_AT]
    downgraded = head[:4] + b"%c" % NEGATIVE + head[5:]
    squeezed = head[:4] + b"%c" % COMPRESSED + b"\0" + head[6:]
    pickled = head[:5] + b"\0" + head[6:]
    bodies = (
        pickled + stamps + gadget,
        downgraded + stamps + gadget,
        squeezed + stamps + zlib.compress(gadget),
    )
    for body in bodies:
        yield own[:MAC_SIZE] + body  # the seal of something else
        yield bytes(MAC_SIZE) + body
        yield ring.entry_mac(body, place) + body  # sealed by somebody else
        yield body  # unsealed
    yield gadget
    yield zlib.compress(gadget)
    yield MAC_SIZE * b"A" + gadget


def bomb(size: int) -> bytes:
    """Return a few bytes that decompress to very many: a text, as pickle and as JSON."""
    squeeze = zlib.compressobj(9)
    parts = [squeeze.compress(b'"')]
    block = b"A" * (1 << 20)
    parts += [squeeze.compress(block) for _ in range(size >> 20)]
    return b"".join([*parts, squeeze.compress(b'"'), squeeze.flush()])
