"""Sealed calls: what was not sealed here runs and imports nothing."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from async_cache.exceptions import MessageRejected, UnkeyableArgument
from async_cache.keyring import KeyRing
from async_cache.keys import Call
from async_cache.messages import RefreshMessage, seal_message
from async_cache.results.messages import CallMessage, open_call, seal_call
from async_cache.results.models import TaskResult
from async_cache.results.running import Site, run_sealed
from async_cache.results.tasks import run
from async_cache.secret_keys import get_ring
from async_cache.signals import refresh_dropped

# Of the standard library, and imported by nobody.
UNTOUCHED = "this"
HOSTILE = CallMessage("id", f"{UNTOUCHED}.c", group="g")


def altered(text: str) -> str:
    return text.replace('"g"', '"h"')


def unsealed(text: str) -> str:
    return text.split(".", 2)[2]


def guessed(text: str) -> str:
    return "1." + "0" * 32 + "." + text.split(".", 2)[2]


@pytest.mark.parametrize("forge", [altered, unsealed, guessed])
@pytest.mark.django_db
def test_a_forged_call_runs_and_imports_nothing(forge: Any) -> None:
    sys.modules.pop(UNTOUCHED, None)
    seen: list[tuple[str, str]] = []

    def listen(*, job: str, reason: str, **_: Any) -> None:
        seen.append((job, reason))

    refresh_dropped.connect(listen)
    try:
        text = forge(seal_call(HOSTILE, get_ring()))
        assert run.apply(args=(text,)).get() == "dropped"
    finally:
        refresh_dropped.disconnect(listen)
    assert seen == [("async_cache.results", "forged")]
    assert UNTOUCHED not in sys.modules
    assert not TaskResult.objects.exists()


def test_another_secret_or_purpose_does_not_open() -> None:
    with pytest.raises(MessageRejected):
        open_call(seal_call(HOSTILE, KeyRing(["another"])), get_ring())
    refresh = RefreshMessage(job="j", version=1, constructor=Call((), {}), items=())
    with pytest.raises(MessageRejected, match="seal"):
        open_call(seal_message(refresh, get_ring()), get_ring())
    assert run_sealed(json.dumps({"path": "os.getcwd"}), Site()) == "dropped"
    assert run_sealed(b"bytes", Site()) == "dropped"


def test_arguments_come_back_type_for_type() -> None:
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    message = CallMessage(
        "id",
        "a.b",
        ((1, [2]), {3: b"x"}),
        {"when": moment},
        "n",
        "g",
        7,
        1.5,
        2.5,
        "h.k",
        False,
        60.0,
    )
    assert open_call(seal_call(message, get_ring()), get_ring()) == message
    former = KeyRing(["new", "old"])
    assert open_call(seal_call(message, KeyRing(["old"])), former) == message


def test_what_cannot_travel_is_refused_at_the_call() -> None:
    with pytest.raises(UnkeyableArgument):
        seal_call(CallMessage("id", "a.b", (object(),)), get_ring())
    with pytest.raises(UnkeyableArgument, match="bytes"):
        seal_call(CallMessage("id", "a.b", ("x" * 300_000,)), get_ring())
