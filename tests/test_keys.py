"""Keys: one for equal calls, another for every other call, the same in each process."""

from __future__ import annotations

import ast
import dataclasses
import os
import re
import struct
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_cache.canonical import MAX_DEPTH
from async_cache.exceptions import UnkeyableArgument
from async_cache.keys import (
    Call,
    CallSignature,
    Keyspace,
    bind_call,
    call,
    call_digest,
    canonical,
    tag_epoch,
    tag_stamp,
)
from tests.typed_values import Colour, Level, Point, Right, Shard, Size, Tenant

ROOT = Path(__file__).parent.parent
DIGEST = "a" * 32


class Fetches:
    """Functions that return what they were given."""

    def plain(self, username: str) -> Any:
        return username

    def defaults(self, username: str, page: int = 1, *, language: str = "en") -> Any:
        return username, page, language

    def everything(
        self, a: int, /, b: int, c: int = 3, *rest: int, d: int, e: int = 5, **extra: int
    ) -> Any:
        return a, b, c, rest, d, e, extra

    def with_ctx(self, username: str, *, ctx: object = None) -> Any:
        return username

    def positional_only(self, a: int = 0, /, **extra: int) -> Any:
        return a, extra


def signature(function: Callable[..., Any]) -> CallSignature:
    return CallSignature("shop.jobs.Tweets", function, method=True)


def named(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> bytes:
    bound = signature(function)
    return bound.encode(bound.bind(args, kwargs))


# Canonical forms


def test_100_000_typed_pairs_in_three_processes_with_three_hash_seeds() -> None:
    command = [sys.executable, "-m", "tests.typed_values", "100000"]
    processes = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in ("0", "1", "4242")
    ]
    outputs = []
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        outputs.append(out.split())
    digests, same, different = (set(column) for column in zip(*outputs, strict=True))
    assert len(digests) == 1
    assert int(same.pop()) > 20_000
    assert int(different.pop()) > 20_000


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (None, b"N"),
        (True, b"T"),
        (-31, b"i-1f;"),
        ("a:b", b"s3:a:b"),
        ("é", b"s2:\xc3\xa9"),
        (b"a", b"b1:a"),
        (1.0, b"f\x3f\xf0\0\0\0\0\0\0"),
        (Decimal("-1.50"), b"d1-2/150;"),
        (UUID(int=1), b"u" + bytes(15) + b"\1"),
        (timedelta(seconds=1), b"Ef4240;"),
        (
            datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=ZoneInfo("Asia/Tokyo")),
            b"A\x07\xe8\x01\x02\x03\x04\x05\0\0\0\x06\0z10:Asia/Tokyo",
        ),
        ((1, [2]), b"U2:i1;L1:i2;"),
        ({"b": 1, "a": 2}, b"M2:s1:ai2;s1:bi1;"),
        ({2, 1}, b"S2:i1;i2;"),
        (Colour.RED, b"t4:enumU2:s25:tests.typed_values:Colours3:RED"),
    ],
)
def test_forms_are_the_same_in_every_version(value: object, form: bytes) -> None:
    assert canonical(value) == form


def test_digest_is_the_same_in_every_version() -> None:
    digest = call_digest("shop.jobs.Tweets", b"", named(Fetches.plain, "bob"), canonical(()))
    assert digest == "ghior7yuwjc5ypkmwadlo27rxbryetp3"


def test_one_two_true_and_text_are_different_keys() -> None:
    forms = [canonical(value) for value in (1, "1", True, 1.0, Decimal(1), b"1", Level.LOW)]
    assert len(set(forms)) == len(forms)
    nested = [canonical(({"x": (value,)},)) for value in (1, "1", True, 1.0)]
    assert len(set(nested)) == len(nested)


def test_every_nan_is_one() -> None:
    other = struct.unpack(">d", bytes.fromhex("fff8000000000001"))[0]
    assert other != other
    assert canonical(other) == canonical(float("nan"))
    assert canonical(complex(0, other)) == canonical(complex(0, float("nan")))


def test_separators_inside_text_are_only_text() -> None:
    assert canonical(("a:b",)) != canonical(("a", "b"))
    assert canonical(("s1:a", "")) != canonical(("", "s1:a"))
    assert canonical(["a", ["b"]]) != canonical(["a", "b"]) != canonical([["a"], "b"])


def test_subclasses_of_scalars_are_the_plain_value() -> None:
    class Text(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "something else"

        def encode(self, *args: Any) -> bytes:
            return b"something else"

    class Number(int):
        def __pos__(self) -> int:
            return 99

    class Moment(datetime):
        pass

    assert canonical(Text("bob")) == canonical("bob")
    assert canonical(Number(5)) == canonical(5)
    assert canonical(Moment(2024, 1, 1)) == canonical(datetime(2024, 1, 1))
    assert canonical([Text("bob")]) == canonical(["bob"])


def test_enums_are_their_class_and_name_whatever_they_inherit() -> None:
    assert canonical(Size.SMALL) != canonical("small")
    assert canonical(Level.LOW) != canonical(1)
    assert canonical(Right.READ | Right.WRITE) == canonical(Right(3)) != canonical(Right.READ)


def test_aware_datetimes_are_their_wall_time_and_zone() -> None:
    naive = datetime(2024, 6, 1, 12)
    utc, zone = naive.replace(tzinfo=UTC), naive.replace(tzinfo=ZoneInfo("UTC"))
    paris = datetime(2024, 6, 1, 14, tzinfo=ZoneInfo("Europe/Paris"))
    assert canonical(naive) != canonical(utc)
    assert canonical(utc) == canonical(zone)
    assert utc == paris
    assert canonical(utc) != canonical(paris)


def test_zone_without_name_or_offset_is_refused() -> None:
    class Nowhere(tzinfo):
        def utcoffset(self, moment: datetime | None) -> None:
            return None

        dst = utcoffset

        def tzname(self, moment: datetime | None) -> str:
            return "nowhere"

    with pytest.raises(UnkeyableArgument, match=r"time zone without an offset; use zoneinfo"):
        canonical(datetime(2024, 1, 1, tzinfo=Nowhere()))


def test_an_object_may_declare_what_identifies_it() -> None:
    assert canonical(Tenant("a")) == canonical(Tenant("a"))
    assert canonical(Tenant("a")) != canonical(Tenant("b"))
    assert canonical(Tenant("a")) != canonical(Shard("a"))
    assert canonical(Tenant("a")) != canonical("a")
    assert canonical(Tenant(Tenant(1))) != canonical(Tenant(1))


def test_an_object_that_declares_itself_comes_to_an_end() -> None:
    class_level = Tenant(None)
    class_level.name = class_level
    with pytest.raises(UnkeyableArgument, match="deeper than 64"):
        canonical(class_level)


def test_dataclasses_must_be_frozen() -> None:
    assert canonical(Point(1, 2)) != canonical(Point(2, 1))
    with pytest.raises(UnkeyableArgument, match="frozen=True"):
        canonical(Mutable(1))
    with pytest.raises(UnkeyableArgument, match="__cache_key__"):
        canonical(Heir(1, 2))


@dataclasses.dataclass
class Mutable:
    x: int


class Heir(Point):
    pass


def test_classes_made_inside_functions_are_refused() -> None:
    @dataclasses.dataclass(frozen=True)
    class Local:
        x: int

    with pytest.raises(UnkeyableArgument, match="top level of its module"):
        canonical(Local(1))


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (..., "ellipsis"),
        (print, "builtin_function_or_method.*such as its name"),
        (lambda: None, "function.*such as its name"),
        (int, "of classes, only Django models"),
        (Colour, "of classes, only Django models"),
        (object(), r"such as its id, or give its class a method __cache_key__\(\)"),
        (bytearray(b"a"), r"pass bytes\(value\)"),
        ((n for n in [1]), "pass a list or tuple"),
        (iter([1]), "pass a list or tuple"),
        (defaultdict(list), "pass a plain dict"),
        (NotImplemented, "NotImplementedType"),
    ],
)
def test_what_has_no_form_is_refused_with_a_remedy(value: object, problem: str) -> None:
    with pytest.raises(UnkeyableArgument, match=problem) as caught:
        canonical({"a": [value]}, "filters")
    assert "argument 'filters' cannot be part of a key: filters['a'][0]" in str(caught.value)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, RuntimeError)


def test_depth_is_bounded() -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH):
        value = (value,)
    assert canonical(value)
    with pytest.raises(UnkeyableArgument, match="deeper than 64"):
        canonical((value,))


def test_containers_that_contain_themselves_are_refused() -> None:
    ring: list[Any] = []
    ring += [ring, ring]
    table: dict[str, Any] = {}
    table["self"] = [table]
    for value in (ring, table):
        with pytest.raises(UnkeyableArgument, match="contains itself"):
            canonical(value)


def test_shared_containers_do_not_take_for_ever() -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH - 1):
        value = [value, value]
    with pytest.raises(UnkeyableArgument, match="more than 1000000 items"):
        canonical(value)


def test_modules_of_keys_import_neither_django_nor_celery() -> None:
    for name in ("scalars", "canonical", "keys"):
        tree = ast.parse((ROOT / "async_cache" / f"{name}.py").read_text())
        imported = {
            module
            for node in ast.walk(tree)
            for module in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        assert not {m for m in imported if m.split(".")[0] in ("django", "celery")}
        ours = {m for m in imported if m.startswith("async_cache")}
        assert ours <= {f"async_cache.{below}" for below in ("canonical", "exceptions", "scalars")}


# Calls


def test_positional_and_keyword_arguments_make_one_call() -> None:
    assert named(Fetches.plain, "bob") == named(Fetches.plain, username="bob")
    assert named(Fetches.plain, "bob") != named(Fetches.plain, "eve")
    one = named(Fetches.defaults, "bob")
    assert one == named(Fetches.defaults, page=1, username="bob", language="en")
    assert one != named(Fetches.defaults, "bob", language="fr")


def test_bound_calls_have_defaults_and_one_order() -> None:
    bound = bind_call(signature(Fetches.everything), (1, 2), {"z": 9, "d": 4, "y": 8})
    assert bound == Call((1, 2, 3), {"d": 4, "e": 5, "z": 9, "y": 8})
    assert named(Fetches.everything, 1, 2, 3, d=4, z=9, y=8) == named(
        Fetches.everything, 1, y=8, z=9, c=3, b=2, d=4, e=5
    )
    assert bind_call(signature(Fetches.everything), (1, 2, 3, 4), {"d": 0}).args == (1, 2, 3, 4)


def test_arguments_do_not_slide_from_one_parameter_to_the_next() -> None:
    forms = [
        named(Fetches.everything, 1, 2, 3, 4, d=5),
        named(Fetches.everything, 1, 2, 3, d=4, f=5),
        named(Fetches.everything, 1, 2, 3, d=4),
        named(Fetches.everything, 1, 2, 3, d=4, f=5, g=6),
    ]
    assert len(set(forms)) == len(forms)


def test_ctx_is_no_part_of_a_call() -> None:
    bound = signature(Fetches.with_ctx)
    assert bound.wants_ctx
    assert bound.bind(("bob",), {}) == Call(("bob",), {})
    with pytest.raises(TypeError, match=r"shop\.jobs\.Tweets: ctx is no part of a call"):
        bound.bind(("bob",), {"ctx": 1})
    assert not signature(Fetches.plain).wants_ctx

    def greedy(*, ctx: object, **extra: object) -> None: ...

    with pytest.raises(TypeError, match="ctx is no part of a call"):
        CallSignature("job", greedy).bind((), {"ctx": 1})


def test_a_positional_parameter_named_ctx_is_an_argument() -> None:
    def fetch(ctx: object) -> None: ...

    bound = CallSignature("job", fetch)
    assert not bound.wants_ctx
    assert bound.bind((), {"ctx": 1}) == Call((1,), {})


def test_a_wrong_call_names_the_job_and_what_it_takes() -> None:
    with pytest.raises(TypeError) as caught:
        signature(Fetches.defaults).bind((), {"user": "bob"})
    text = str(caught.value)
    assert text.startswith("shop.jobs.Tweets: missing a required argument: 'username'")
    assert "defaults(username: 'str', page: 'int' = 1, *, language: 'str' = 'en')" in text


def test_an_unkeyable_argument_names_the_job_and_the_parameter() -> None:
    calls: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], str]] = [
        (Fetches.plain, (object(),), {}, "argument 'username'"),
        (Fetches.defaults, ("bob",), {"language": object()}, "argument 'language'"),
        (Fetches.everything, (1, 2, 3, object()), {"d": 1}, "argument '*rest[0]'"),
        (Fetches.everything, (1, 2), {"d": 1, "odd": object()}, "argument 'odd'"),
    ]
    for function, args, kwargs, part in calls:
        with pytest.raises(UnkeyableArgument) as caught:
            named(function, *args, **kwargs)
        assert str(caught.value).startswith(f"shop.jobs.Tweets: {part} cannot be part of a key")


@pytest.mark.parametrize(
    "function",
    [getattr(Fetches, name) for name in vars(Fetches) if not name.startswith("_")],
)
@given(
    args=st.lists(st.integers(), max_size=6).map(tuple),
    kwargs=st.dictionaries(st.sampled_from("abcdefg") | st.just("username"), st.integers()),
)
def test_binding_agrees_with_python(
    function: Callable[..., Any], args: tuple[int, ...], kwargs: dict[str, int]
) -> None:
    bound = signature(function)
    try:
        expected = function(Fetches(), *args, **kwargs)
    except TypeError:
        with pytest.raises(TypeError, match=r"^shop\.jobs\.Tweets: .* takes$"):
            bound.bind(args, kwargs)
    else:
        made = bound.bind(args, kwargs)
        assert function(Fetches(), *made.args, **made.kwargs) == expected
        assert bound.bind(made.args, made.kwargs) == made


def test_call_names_arguments() -> None:
    assert call("bob", page=2) == Call(("bob",), {"page": 2})


# Digests and cache keys


def test_digest_parts_do_not_run_into_each_other() -> None:
    digests = [
        call_digest("job", b"ab", b"c", b""),
        call_digest("job", b"a", b"bc", b""),
        call_digest("job", b"a", b"b", b"c"),
        call_digest("joba", b"b", b"c", b""),
        call_digest("job", b"", b"abc", b""),
    ]
    assert len(set(digests)) == len(digests)
    assert all(re.fullmatch("[a-z2-7]{32}", digest) for digest in digests)


def every_key(prefix: str, job: str, version: int | str, tag: str) -> list[str]:
    space = Keyspace(prefix, job, version)
    return [
        space.entry(DIGEST),
        space.lease(DIGEST),
        space.failure(DIGEST),
        space.trace(DIGEST),
        space.job_stamp(),
        space.soft_stamp(DIGEST),
        space.hard_stamp(DIGEST),
        space.members(),
        tag_stamp(prefix, tag),
        tag_epoch(prefix),
    ]


def test_keys_read_well() -> None:
    space = Keyspace("ac", "shop.jobs.Tweets", 2)
    assert space.entry(DIGEST) == f"ac:shop.jobs.Tweets:2:{DIGEST}"
    assert space.soft_stamp(DIGEST) == f"ac:shop.jobs.Tweets:{DIGEST}:soft"
    assert tag_stamp("ac", "user:5") == "ac:-tag:user:5"
    odd = Keyspace("ac", "async_cache.QuerySetGetJob:auth.User")
    assert odd.job_stamp().startswith("ac:async_cache.QuerySetGetJob.auth.User..")


def test_stamps_reach_every_version_and_entries_only_theirs() -> None:
    one, two = Keyspace("ac", "job", 1), Keyspace("ac", "job", 2)
    for name in ("entry", "lease", "failure", "trace"):
        assert getattr(one, name)(DIGEST) != getattr(two, name)(DIGEST)
    for name in ("soft_stamp", "hard_stamp"):
        assert getattr(one, name)(DIGEST) == getattr(two, name)(DIGEST)
    assert one.job_stamp() == two.job_stamp()


names = st.text(max_size=120) | st.sampled_from(
    ["tag", "-tag", "epoch", "stamp", "a", "a:b", "a.b", "a..b", "A" * 200, "", DIGEST, "ac", "1"]
)


@given(prefix=names, job=names, version=names | st.integers(0, 10**40), tag=names)
def test_keys_are_short_safe_and_distinct(
    prefix: str, job: str, version: int | str, tag: str
) -> None:
    keys = every_key(prefix, job, version, tag)
    assert len(set(keys)) == len(keys)
    for key in keys:
        assert re.fullmatch(r"[A-Za-z0-9:_.-]{1,200}", key)


@given(st.tuples(names, names, names), st.tuples(names, names, names))
def test_keys_of_two_jobs_never_meet(one: tuple[str, str, str], two: tuple[str, str, str]) -> None:
    first = set(every_key(*one, tag="x")[:8])
    second = set(every_key(*two, tag="x")[:8])
    if one[:2] != two[:2]:
        assert not first & second
    elif one[2] != two[2]:
        assert len(first & second) == 4  # the stamps and the members


@given(names, names)
def test_tags_and_jobs_never_meet(one: str, two: str) -> None:
    assert (tag_stamp("ac", one) == tag_stamp("ac", two)) == (one == two)
    assert tag_stamp("ac", one) not in every_key("ac", two, 1, "x")[:8]
