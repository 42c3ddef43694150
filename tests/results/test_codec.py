"""Values type for type, errors as type and text, and nothing imported or run to read them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from random import Random
from types import ModuleType
from typing import Any

import pytest

from async_cache.exceptions import UnstorableValue
from async_cache.results.codec import (
    MAX_TEXT,
    decode_error,
    decode_value,
    encode_error,
    encode_value,
)
from async_cache.results.exceptions import RecordRejected, TaskFailed
from async_cache.results.records import Record
from tests.typed_values import SCALARS, make, same

RAN: list[str] = []


class Loud(Exception):
    """An error whose constructor is heard, and wants more than a text."""

    def __init__(self, code: int, text: str) -> None:
        RAN.append(text)
        super().__init__(text)
        self.code = code


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Elaborate(Exception):
    def __new__(cls, *args: object) -> Elaborate:
        RAN.append("new")
        return super().__new__(cls, *args)


def with_value(value: object, task_id: str = "a", serializer: str | None = None) -> Record:
    return Record(task_id, state="SUCCESS", **encode_value(value, task_id, serializer)._asdict())


def with_error(error: BaseException) -> Record:
    return Record("a", state="FAILURE", **encode_error(error)._asdict())


def test_values_come_back_type_for_type() -> None:
    random = Random(7)
    for value in [*SCALARS, *(make(random) for _ in range(100))]:
        assert same(decode_value(with_value(value)), value)


def test_json_is_plain_and_strict() -> None:
    record = with_value({"a": [1, None, "ü"]}, serializer="json")
    assert (record.content_type, record.content_encoding) == ("application/json", "utf-8")
    assert json.loads(record.value) == decode_value(record) == {"a": [1, None, "ü"]}
    with pytest.raises(UnstorableValue):
        encode_value((1,), "a", "json")
    with pytest.raises(RecordRejected):
        decode_value(record.replace(value=b"{"))


def test_the_setting_names_the_serializer(settings: Any) -> None:
    settings.ASYNC_CACHE = {"RESULTS": {"SERIALIZER": "json"}}
    assert with_value([1]).value == b"[1]"


def test_a_value_that_is_too_large_or_cannot_be_stored(settings: Any) -> None:
    with pytest.raises(UnstorableValue):
        encode_value(lambda: None, "a")
    record = with_value("x" * 3_000)
    settings.ASYNC_CACHE = {"MAX_VALUE_SIZE": 2_000}
    with pytest.raises(UnstorableValue):
        encode_value("x" * 3_000, "a")
    with pytest.raises(RecordRejected):
        decode_value(record)


def test_a_sealed_value_opens_for_its_task_only() -> None:
    record = with_value(1)
    with pytest.raises(RecordRejected):
        decode_value(record.replace(id="b"))
    for at in range(len(record.value)):
        forged = bytearray(record.value)
        forged[at] ^= 1
        with pytest.raises(RecordRejected):
            decode_value(record.replace(value=bytes(forged)))
    for content_type in ("application/x-python-serialize", "", "application/x-yaml"):
        with pytest.raises(RecordRejected, match="not read here"):
            decode_value(record.replace(content_type=content_type))


def test_a_value_sealed_under_an_earlier_secret_opens(settings: Any) -> None:
    record = with_value((1, 2))
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "new"
    assert decode_value(record) == (1, 2)
    settings.SECRET_KEY_FALLBACKS = []
    with pytest.raises(RecordRejected, match="SECRET_KEY"):
        decode_value(record)


@pytest.mark.parametrize(
    ("error", "args"),
    [
        (ValueError("no"), ("no",)),
        (KeyError("k"), ("k",)),
        (OSError(2, "gone"), ("[Errno 2] gone",)),
        (RuntimeError(), ("",)),
        (ZeroDivisionError("a", 1), ("('a', 1)",)),
    ],
)
def test_an_error_comes_back_as_type_and_text(error: Exception, args: tuple[str]) -> None:
    back = decode_error(with_error(error))
    assert type(back) is type(error)
    assert back.args == args
    assert back.__traceback__ is None


def test_no_constructor_of_the_project_runs() -> None:
    records = [with_error(Loud(7, "heard")), with_error(Elaborate("made"))]
    RAN.clear()
    loud, elaborate = map(decode_error, records)
    assert (type(loud), str(loud)) == (Loud, "heard")
    assert (type(elaborate), str(elaborate)) == (Elaborate, "made")
    assert RAN == []


def test_only_type_and_text_are_stored() -> None:
    error = Loud(7, "heard")
    error.secret = "s3cr3t"  # type: ignore[attr-defined]
    record = with_error(error)
    assert json.loads(record.value) == {
        "exc_type": "Loud", "exc_module": __name__, "exc_message": "heard",
    }  # fmt: skip


def test_an_error_without_text_and_one_with_too_much() -> None:
    assert "RuntimeError" in str(decode_error(with_error(Mute(1, 2))))
    assert len(str(decode_error(with_error(ValueError("x" * 10**6))))) == MAX_TEXT


@pytest.fixture
def trap() -> Iterator[str]:
    module = ModuleType("trap_module")
    module.thing = ValueError  # type: ignore[attr-defined]
    module.not_error = dict  # type: ignore[attr-defined]
    module.exit = SystemExit  # type: ignore[attr-defined]
    module.__getattr__ = lambda name: RAN.append(name)  # type: ignore[method-assign]
    sys.modules["trap_module"] = module
    yield "trap_module"
    del sys.modules["trap_module"]


def test_what_is_no_imported_exception_is_not_looked_for(trap: str) -> None:
    RAN.clear()
    for module, name in [
        ("antigravity", "Boom"), (trap, "lazy"), (trap, "not_error"), (trap, "exit"),
        ("builtins", "eval"), ("os", "system"), ("subprocess", "Popen"), ("", "missing"),
        ("async_cache.none", "X"), ("builtins", "ValueError.__class__"),
    ]:  # fmt: skip
        value = json.dumps({"exc_type": name, "exc_module": module, "exc_message": "text"})
        error = decode_error(Record("a", state="FAILURE", value=value.encode()))
        assert type(error) is TaskFailed
        assert error.text == "text"
        assert str(error).endswith(f"{name}: text")
    assert RAN == []
    assert "antigravity" not in sys.modules
    value = json.dumps({"exc_type": "thing", "exc_module": trap, "exc_message": ["a"]})
    assert type(decode_error(Record("a", value=value.encode()))) is ValueError


def test_a_record_without_an_error() -> None:
    assert str(decode_error(Record("a", state="REVOKED"))) == "REVOKED"
    for value in (b"{", b"[1]", b"7"):
        with pytest.raises(RecordRejected):
            decode_error(Record("a", state="FAILURE", value=value))
