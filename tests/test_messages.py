"""Messages: what is sent arrives, type for type; what was not sent by us arrives nowhere."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta, timezone, tzinfo
from pathlib import Path
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from kombu.serialization import dumps, loads

from async_cache.arguments import Rows
from async_cache.canonical import MAX_DEPTH, canonical
from async_cache.entry import KeyRing
from async_cache.exceptions import MessageRejected, UnkeyableArgument
from async_cache.keys import Call, call
from async_cache.messages import (
    MAX_MESSAGE_SIZE,
    LostItem,
    RefreshItem,
    RefreshMessage,
    dumps_arguments,
    loads_arguments,
    open_message,
    seal_message,
)
from tests.app.models import Author
from tests.typed_values import SCALARS, Colour, Pair, Point, Tenant, make, same

ROOT = Path(__file__).parent.parent
RING = KeyRing([b"secret"])
PURPOSE = b"async_cache.message.1"
DIGEST = "a" * 32


def item(*args: Any, **kwargs: Any) -> RefreshItem:
    return RefreshItem(call(*args, **kwargs), DIGEST, b"token", b"\0\1\2\3\4\5\6\7")


MESSAGE = RefreshMessage(
    job="shop.jobs.Tweets",
    version=3,
    constructor=call(Author, depth=2),
    options={"ttl": timedelta(minutes=1), "negative": (LookupError, Author.DoesNotExist)},
    items=(item("bob"), item(("a", 1), when=datetime(2024, 1, 1), colour=Colour.RED)),
    context=(("language", "fr"), ("timezone", "Europe/Paris")),
    enqueued_at=1_700_000_000.25,
    expires_at=1_700_000_060.0,
)


def travel(value: Any) -> Any:
    return loads_arguments(json.loads(json.dumps(dumps_arguments(value), allow_nan=False)))


def forge(body: Any, ring: KeyRing = RING) -> str:
    """Seal what `seal_message` would never make."""
    text = body if isinstance(body, str) else json.dumps(body)
    return f"1.{ring.mac(text.encode('ascii'), PURPOSE).hex()}.{text}"


def opened_body(message: RefreshMessage = MESSAGE) -> Any:
    return json.loads(seal_message(message, RING).split(".", 2)[2])


# Arguments


@pytest.mark.parametrize("value", SCALARS, ids=range(len(SCALARS)))
def test_scalars_arrive_type_for_type(value: Any) -> None:
    assert same(travel(value), value)


def test_20_000_values_arrive_type_for_type_and_keep_their_key() -> None:
    random = Random(7)
    for _ in range(20_000):
        value = make(random)
        arrived = travel(value)
        assert same(arrived, value), value
        assert canonical(arrived) == canonical(value), value


def test_dicts_keep_their_order() -> None:
    assert list(travel({"b": 1, "a": 2})) == ["b", "a"]


def test_a_time_zone_of_ones_own_arrives_as_its_offset() -> None:
    class East(tzinfo):
        def utcoffset(self, moment: datetime | None) -> timedelta:
            return timedelta(hours=3)

        def dst(self, moment: datetime | None) -> timedelta:
            return timedelta(0)

        def tzname(self, moment: datetime | None) -> str:
            return "East"

    moment = datetime(2024, 1, 1, tzinfo=East())
    assert travel(moment) == moment
    assert travel(moment).tzinfo == timezone(timedelta(hours=3))
    assert canonical(travel(moment)) == canonical(moment)


def test_subclasses_of_scalars_arrive_plain() -> None:
    class Text(str):
        __slots__ = ()

    class Number(int):
        pass

    assert type(travel(Text("a"))) is str
    assert type(travel(Number(1))) is int


class Keyed:
    """Has a key, and no way back from it."""

    def __cache_key__(self) -> str:
        return "x"


class KeyedPoint(Point):
    def __cache_key__(self) -> int:
        return 1


def test_an_object_travels_when_its_class_says_how() -> None:
    assert travel(Tenant(("a", 1))).name == ("a", 1)
    assert canonical(Keyed())
    with pytest.raises(UnkeyableArgument, match=r"cannot travel .* __from_cache_key__") as caught:
        dumps_arguments([Keyed()], "tenant")
    assert "argument 'tenant'" in str(caught.value)


def test_depth_is_bounded() -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH):
        value = [value]
    assert travel(value) == value
    ring: list[Any] = []
    ring.append(ring)
    for deep in ([[value]], ring):
        with pytest.raises(UnkeyableArgument, match="deeper than 64"):
            dumps_arguments(deep)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"enum": {"tuple": ["tests.typed_values:Colour", "BLUE"]}}, "does not load"),
        ({"enum": {"tuple": ["tests.typed_values:Point", "RED"]}}, "is no Enum"),
        ({"enum": {"tuple": ["tests.typed_values:Nothing", "RED"]}}, "does not import"),
        ({"enum": {"tuple": ["nowhere.at.all:Colour", "RED"]}}, "does not import"),
        ({"enum": {"tuple": [":", "RED"]}}, "does not import"),
        ({"dataclass": {"tuple": ["tests.typed_values:Point", {"dict": []}]}}, "other fields"),
        ({"exception": "os:system"}, "is no BaseException"),
        ({"datetime": ["yesterday", 0, None]}, "does not load"),
        ({"datetime": ["2024-01-01", 0, "Nowhere/At_All"]}, "does not load"),
        ({"datetime": ["2024-01-01", 0, "../../etc/passwd"]}, "does not load"),
        ({"bytes": "???"}, "does not load"),
        ({"decimal": "one"}, "does not load"),
        ({"set": [[]]}, "does not load"),
        ({"unheard of": 1}, "does not load"),
        ({"tuple": [], "list": []}, "does not load"),
        ({}, "does not load"),
        ({"path": ["windows", True, "a"]}, "another system"),
    ],
)
def test_data_that_names_nothing_is_rejected(data: Any, problem: str) -> None:
    with pytest.raises(MessageRejected, match=problem):
        loads_arguments(data)


def test_rows_must_have_been_asked_for() -> None:
    with pytest.raises(MessageRejected):
        loads_arguments({"model": {"tuple": ["library.Author", 1, "default"]}}, Rows())


# Messages


def test_a_message_arrives_as_it_was_sent() -> None:
    assert open_message(seal_message(MESSAGE, RING), RING) == MESSAGE


def test_a_message_survives_the_json_serializer_of_celery() -> None:
    sealed = seal_message(MESSAGE, RING)
    content_type, encoding, body = dumps(((sealed,), {}, {}), serializer="json")
    ((carried,), _, _) = loads(body, content_type, encoding, accept=["application/json"])
    assert carried == sealed
    assert open_message(carried, RING) == MESSAGE


def test_a_message_can_be_read_by_a_person() -> None:
    sealed = seal_message(MESSAGE, RING)
    assert sealed.isascii()
    assert sealed.startswith("1.")
    assert '"job":"shop.jobs.Tweets"' in sealed


def test_earlier_secrets_open_and_other_ones_do_not() -> None:
    sealed = seal_message(MESSAGE, KeyRing([b"old"]))
    assert open_message(sealed, KeyRing([b"new", b"old"])) == MESSAGE
    with pytest.raises(MessageRejected, match="SECRET_KEY_FALLBACKS"):
        open_message(sealed, KeyRing([b"new"]))
    with pytest.raises(MessageRejected):
        open_message(sealed, KeyRing([b"old"], salt=b"another use"))


def test_a_mac_of_something_else_opens_nothing() -> None:
    body = seal_message(MESSAGE, RING).split(".", 2)[2]
    with pytest.raises(MessageRejected):
        open_message(f"1.{RING.mac(body.encode(), b'another purpose').hex()}.{body}", RING)


def test_expired_messages_are_rejected_before_rows_are_loaded(db: None) -> None:
    author = Author.objects.create(name="Ada")
    sealed = seal_message(replace(MESSAGE, items=(item(author),)), RING)
    assert MESSAGE.expires_at is not None
    with CaptureQueriesContext(connection) as queries:
        with pytest.raises(MessageRejected, match="expired"):
            open_message(sealed, RING, now=MESSAGE.expires_at + 1)
        assert not len(queries)
        assert open_message(sealed, RING, now=MESSAGE.expires_at).items[0].call == Call((author,))
    unlimited = seal_message(replace(MESSAGE, expires_at=None), RING)
    assert open_message(unlimited, RING, now=1e12).expires_at is None


def test_the_rows_of_all_items_cost_one_query(db: None) -> None:
    authors = [Author.objects.create(name=str(n)) for n in range(10)]
    message = replace(
        MESSAGE, constructor=call(authors[0]), items=tuple(item(author) for author in authors)
    )
    sealed = seal_message(message, RING)
    with CaptureQueriesContext(connection) as queries:
        assert open_message(sealed, RING) == message
    assert len(queries) == 1


def test_an_item_whose_row_is_gone_is_lost_and_the_others_are_not(db: None) -> None:
    kept, gone = Author.objects.create(name="kept"), Author.objects.create(name="gone")
    sealed = seal_message(replace(MESSAGE, items=(item(gone), item(kept), item(1))), RING)
    gone.delete()
    message = open_message(sealed, RING)
    assert [found.call.args for found in message.items] == [(kept,), (1,)]
    (lost,) = message.lost
    assert isinstance(lost, LostItem)
    assert (lost.digest, lost.token) == (DIGEST, b"token")
    assert "library.Author that is not in the database" in lost.reason


def test_an_item_that_is_malformed_is_lost_and_the_others_are_not() -> None:
    body = opened_body()
    body["items"][0][0][0] = [{"model": 5}]
    message = open_message(forge(body), RING)
    assert message.items == MESSAGE.items[1:]
    assert "does not load" in message.lost[0].reason


def test_a_constructor_argument_that_is_gone_rejects_the_message(db: None) -> None:
    author = Author.objects.create(name="Ada")
    sealed = seal_message(replace(MESSAGE, constructor=call(author)), RING)
    author.delete()
    with pytest.raises(MessageRejected, match="not in the database"):
        open_message(sealed, RING)


def test_size_is_capped_on_both_ends() -> None:
    large = replace(MESSAGE, items=(item("x" * MAX_MESSAGE_SIZE),))
    with pytest.raises(UnkeyableArgument, match=r"shop\.jobs\.Tweets: .* more than 262144"):
        seal_message(large, RING)
    body = opened_body()
    body["options"] = [["ttl", "x" * MAX_MESSAGE_SIZE]]
    with pytest.raises(MessageRejected, match="too large"):
        open_message(forge(body), RING)


@pytest.mark.parametrize("text", [None, b"1.", 5, "", "1.", "é", "2" + "." * 40, ["1."], "1.x.{}"])
def test_what_is_no_message_is_rejected(text: object) -> None:
    with pytest.raises(MessageRejected):
        open_message(text, RING)


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        '{"a": 1',
        '{"expires_at": {"a":' + "[" * 100_000 + "]" * 100_000 + "}}",
        '{"expires_at": ' + "9" * 5000 + "}",
        '{"expires_at": "soon"}',
    ],
)
def test_a_sealed_body_that_is_malformed_is_rejected(body: str) -> None:
    with pytest.raises(MessageRejected):
        open_message(forge(body), RING, now=0.0)


@pytest.mark.parametrize("field", list(opened_body()))
@pytest.mark.parametrize("value", [None, 5, "x", [], [5], [[]], [[1, 2]], {}, {"tuple": []}, True])
def test_a_sealed_field_of_another_type_is_rejected_or_harmless(field: str, value: Any) -> None:
    body = opened_body()
    body[field] = value
    try:
        message = open_message(forge(body), RING, now=0.0)
    except MessageRejected:
        return
    expected = open_message(seal_message(message, RING), RING)
    assert expected == replace(message, lost=())


FUZZ = """
import sys
from random import Random
import django
from django.conf import settings

settings.configure(INSTALLED_APPS=["django.contrib.contenttypes"], SECRET_KEY="x")
django.setup()

from async_cache.entry import KeyRing
from async_cache.exceptions import MessageRejected
from async_cache.messages import open_message

random, ring = Random(11), KeyRing([b"secret"])
sealed = sys.stdin.read()
alphabet = '0123456789abcdef{}[]",.:\\x00\\ud800\\u00e9 '


def mutate(text):
    at, end = sorted(random.choices(range(len(text) + 1), k=2))
    some = "".join(random.choices(alphabet, k=random.randrange(1, 5)))
    return random.choice([
        lambda: text[:at],
        lambda: text[at:],
        lambda: text[:at] + text[end:],
        lambda: text[:at] + some + text[at:],
        lambda: text[:at] + some + text[at + len(some):],
        lambda: text[:at] + text[at:end] * 2 + text[end:],
        lambda: text.replace("tests.typed_values", "antigravity"),
        lambda: text[:at] + text[at:end].swapcase() + text[end:],
        lambda: text[:end].encode("utf-8", "replace"),
    ])()


def watch(event, args):
    if watching and event in ("import", "open", "exec", "compile", "sqlite3.connect"):
        events.append((event, args))


watching, events = False, []
sys.addaudithook(watch)
assert ring.verify(sealed.split(".", 2)[2].encode(), bytes.fromhex(sealed[2:34]), {purpose!r})
texts = []
while len(texts) < 10_000:
    text = mutate(sealed)
    for _ in range(random.randrange(3)):
        text = mutate(text) if isinstance(text, str) and text else text
    if text != sealed:
        texts.append(text)
before, rejected = set(sys.modules), 0
watching = True
for text in texts:
    try:
        open_message(text, ring)
    except MessageRejected:
        rejected += 1
watching = False
assert not events, events[:3]
assert set(sys.modules) == before, set(sys.modules) - before
print(rejected)
"""


def test_10_000_mutated_messages_are_rejected_and_import_nothing() -> None:
    # The names that a break of the seal would import are not imported in that process yet.
    sealed = seal_message(
        replace(
            MESSAGE,
            constructor=call(Colour.RED, Pair(1, 2)),
            options={},
            items=(item(Point(1, 2)), item(datetime(2024, 1, 1, tzinfo=ZoneInfo("Asia/Tokyo")))),
        ),
        RING,
    )
    done = subprocess.run(
        [sys.executable, "-c", FUZZ.replace("{purpose!r}", repr(PURPOSE))],
        input=sealed,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "10000"
