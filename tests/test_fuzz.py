"""The fuzzers: what they have found keeps no promise broken, and they notice broken ones."""

from __future__ import annotations

import importlib
from pathlib import Path
from random import Random
from typing import Any

import pytest

from fuzz.__main__ import CORPUS, FUZZERS


def corpus(name: str) -> list[bytes]:
    kept: list[Path] = sorted((CORPUS / name).iterdir())
    return [path.read_bytes() for path in kept]


@pytest.mark.parametrize("name", FUZZERS)
def test_the_corpus(name: str) -> None:
    check = importlib.import_module(f"fuzz.{name}").check
    random, inputs = Random(4), corpus(name)
    assert len(inputs) > 2
    for data in inputs:
        check(data)
        for _ in range(20):
            at = random.randrange(len(data) + 1)
            check(data[:at] + random.randbytes(random.randrange(1, 9)) + data[at + 1 :])


@pytest.mark.parametrize(
    ("name", "target", "instead"),
    [
        ("entries", "async_cache.entry.compare_digest", lambda a, b: True),
        ("entries", "async_cache.entry.json.loads", lambda text: 5),
        ("messages", "async_cache.keyring.KeyRing.verify", lambda *args: True),
        ("messages", "fuzz.messages.open_call", lambda text, ring: None),
        ("keys", "fuzz.keys.canonical", lambda value: repr(value).encode()[:2]),
        ("keys", "fuzz.keys.loads_arguments", lambda data: data),
    ],
)
def test_a_broken_promise_is_noticed(
    name: str, target: str, instead: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = importlib.import_module(f"fuzz.{name}").check
    if target == "async_cache.entry.json.loads":
        # Whatever is not checked of it reaches who reads.
        monkeypatch.setattr("async_cache.entry._META", {int})
        instead = lambda text: [5, 5, 5, 5]  # noqa: E731
    monkeypatch.setattr(target, instead)
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the fuzzer would report
        list(map(check, corpus(name)))
