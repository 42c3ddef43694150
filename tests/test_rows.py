"""Model instances come back as they were, or not at all."""

from __future__ import annotations

import datetime
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import django
import pytest
from django.apps import apps
from django.contrib.auth.models import Group, User
from django.db import connection, models
from django.db.models import Count, Prefetch
from django.db.models.fields.files import FieldFile
from django.test.utils import CaptureQueriesContext
from django.utils.functional import SimpleLazyObject

from async_cache.entry import KeyRing, new_entry_id, new_header, open_entry, seal
from async_cache.exceptions import EntryRejected, UnstorableValue
from async_cache.serializers import dump_value, get_serializer, load_value
from async_cache.serializers.rows import fingerprint
from tests.app.models import Author, Book

RING = KeyRing(["secret"])
STAMP = datetime.datetime(2024, 2, 29, 12, 30, 1, 5, tzinfo=datetime.UTC)


class Size(models.TextChoices):
    SMALL = "s"


class Base(models.Model):
    """A parent with fields of many types; no table, the tests make instances by hand."""

    amount = models.DecimalField(max_digits=20, decimal_places=4, null=True)
    moment = models.DateTimeField(null=True)
    day = models.DateField(null=True)
    lasting = models.DurationField(null=True)
    uid = models.UUIDField(null=True)
    extra = models.JSONField(null=True)
    blob = models.BinaryField(null=True)
    document = models.FileField(upload_to="documents", null=True)
    size = models.CharField(max_length=1, choices=Size, null=True)
    parent = models.ForeignKey("self", models.CASCADE, null=True)

    class Meta:
        app_label = "library"
        managed = False


class Child(Base):
    ratio = models.FloatField(null=True)

    class Meta:
        app_label = "library"
        managed = False


class ProxyChild(Child):
    class Meta:
        app_label = "library"
        proxy = True


class Remembers(models.Model):
    """A model that decides itself what is pickled."""

    name = models.CharField(max_length=10)

    class Meta:
        app_label = "library"
        managed = False

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "pickled": True}


def sealed(data: bytes) -> tuple[bytes, Any]:
    header = new_header(
        entry_id=new_entry_id(),
        codec=0,
        fetch_started=1.0,
        fresh_until=2.0,
        dead_at=3.0,
        fetch_seconds=0.1,
        stamps=b"",
    )
    raw = seal(header, data, "key", RING)
    return raw, open_entry(raw, RING.opener("key"))


def round_trip(value: Any) -> Any:
    payload = dump_value(value, get_serializer("pickle"))
    assert (payload.flags, payload.codec) == (0, 0)
    return load_value(*sealed(payload.data))


def typed(instance: models.Model) -> dict[str, tuple[type, Any]]:
    return {
        name: (type(value), value) for name, value in vars(instance).items() if name != "_state"
    }


VALUES: dict[str, Any] = {
    "id": 7,
    "amount": Decimal("1.10"),
    "moment": STAMP,
    "day": datetime.date(2024, 2, 29),
    "lasting": datetime.timedelta(days=-1, microseconds=3),
    "uid": UUID("12345678123456781234567812345678"),
    "extra": {"a": [1, None, {"b": 1.5}], "c": "é"},
    "blob": b"\x00\xff",
    "document": None,
    "size": "s",
    "parent_id": 3,
}


@pytest.mark.parametrize("db", ["default", "other", None])
def test_every_field_keeps_its_value_and_type(db: str | None) -> None:
    sent = Base.from_db(db, list(VALUES), list(VALUES.values()))
    back = round_trip(sent)
    assert type(back) is Base
    assert back == sent
    assert typed(back) == typed(sent)
    assert back._state.db == db
    assert back._state.adding is False
    assert back._state.fields_cache == {}


def test_a_new_instance_is_still_one() -> None:
    back = round_trip(Base(day=datetime.date(2024, 1, 1)))
    assert back.pk is None
    assert back._state.adding is True
    assert back._state.db is None


@pytest.mark.parametrize(
    "value",
    [
        Size.SMALL,
        memoryview(b"abc"),
        STAMP.astimezone(ZoneInfo("Europe/Berlin")),
        STAMP.astimezone(datetime.timezone(datetime.timedelta(hours=5, minutes=30))),
        STAMP.replace(tzinfo=None),
        (1, [2], {3}),
        -0.0,
    ],
)
def test_values_of_other_types_than_the_field_keep_theirs(value: Any) -> None:
    sent = Base(pk=1, size=value)
    back = round_trip(sent)
    assert (type(back.size), repr(back.size)) == (type(value), repr(value)) or (
        type(value) is memoryview and back.size == value
    )
    assert getattr(back.size, "tzinfo", None) == getattr(value, "tzinfo", None)


def test_a_multi_table_child_and_its_proxy_keep_their_class() -> None:
    for model in (Child, ProxyChild):
        sent = model(**VALUES, base_ptr_id=7, ratio=0.5)
        back = round_trip([sent])[0]
        assert type(back) is model
        assert typed(back) == typed(sent)


def test_file_fields_work_again() -> None:
    sent = Base(pk=1, document="documents/a.txt")
    assert isinstance(sent.document, FieldFile)
    back = round_trip(sent)
    assert isinstance(back.document, FieldFile)
    assert back.document.name == "documents/a.txt"
    assert back.document.storage is sent.document.storage
    assert back.document.url == sent.document.url
    assert back.document.instance is back
    assert not round_trip(Base(pk=1)).document
    assert round_trip(sent.document) == sent.document
    assert b"FieldFile" not in payload_of(sent)


def test_objects_that_refer_to_each_other_still_do() -> None:
    parent = Base(pk=1)
    children = [Base(pk=2, parent=parent), Base(pk=3, parent=parent)]
    parent._state.fields_cache["first"] = children[0]  # a cycle, as a reverse one-to-one makes
    back = round_trip(children)
    assert back == children
    assert back[0].parent is back[1].parent
    assert back[0].parent._state.fields_cache["first"] is back[0]


class Bound:
    """A field value that knows its instance, as some custom fields make."""

    def __init__(self, instance: models.Model) -> None:
        self.instance = instance

    def __reduce__(self) -> Any:
        return (Bound, (self.instance,))


def test_a_field_value_may_refer_to_its_instance() -> None:
    sent = Base(pk=1, day=datetime.date(2024, 1, 1))
    sent.extra = Bound(sent)
    back = round_trip(sent)
    assert back.extra.instance is back
    assert back.day == sent.day


def test_what_hangs_on_an_instance_survives() -> None:
    sent = Base(pk=1)
    sent.total = Decimal(2)  # type: ignore[attr-defined]
    sent.loaded = {"parent": sent, "all": [sent]}  # type: ignore[attr-defined]
    back = round_trip(sent)
    assert back.total == Decimal(2)
    assert back.loaded["parent"] is back
    assert back.loaded["all"] == [back]


def test_a_model_may_decide_itself_what_is_pickled() -> None:
    back = round_trip([Remembers(pk=1, name="a")])[0]
    assert (type(back), back.pk, back.name, back.pickled) == (Remembers, 1, "a", True)


def test_a_lazy_instance_is_stored_as_the_instance() -> None:
    lazy = SimpleLazyObject(lambda: Base(pk=4))
    assert type(round_trip([lazy])[0]) is Base
    assert round_trip([lazy])[0].pk == 4


@pytest.fixture
def library() -> list[Book]:
    authors = [Author.objects.create(name=f"author {number}") for number in range(2)]
    books = [
        Book.objects.create(
            title=f"book {number}",
            author=authors[number % 2],
            price=Decimal("9.90"),
            published=STAMP,
            extra={"n": number},
        )
        for number in range(4)
    ]
    for book in books:
        book.editors.set(authors)
    return books


@pytest.mark.django_db
def test_loaded_relations_need_no_query(library: list[Book]) -> None:
    books = Prefetch("books", queryset=Book.objects.order_by("-title"))
    sent = list(
        Book.objects.select_related("author").prefetch_related(
            Prefetch("editors", queryset=Author.objects.prefetch_related(books)),
            Prefetch("editors", queryset=Author.objects.filter(name="author 1"), to_attr="seconds"),
        )
    )
    back = round_trip(sent)
    with CaptureQueriesContext(connection) as queries:
        assert [book.author for book in back] == [book.author for book in sent]
        for book, original in zip(back, sent, strict=True):
            assert list(book.editors.all()) == list(original.editors.all())
            assert [len(editor.books.all()) for editor in book.editors.all()] == [2, 2]
            assert [author.name for author in book.seconds] == ["author 1"]
    assert len(queries) == 0
    # A related manager goes on to work: a narrower query asks the database again.
    assert [author.name for author in back[0].editors.filter(name="author 0")] == ["author 0"]


@pytest.mark.django_db
def test_reverse_and_custom_prefetches_keep_their_filter(library: list[Book]) -> None:
    few = Book.objects.filter(title="book 1").select_related("author")
    sent = list(Author.objects.prefetch_related(Prefetch("books", queryset=few)))
    back = round_trip(sent)
    with CaptureQueriesContext(connection) as queries:
        assert [[book.title for book in author.books.all()] for author in back] == [[], ["book 1"]]
        assert back[1].books.all()[0].author == back[1]
    assert len(queries) == 0
    assert [book.title for book in back[1].books.order_by("-title")] == ["book 1"]


@pytest.mark.django_db
@pytest.mark.usefixtures("library")
def test_deferred_fields_stay_deferred() -> None:
    for sent in (list(Book.objects.only("title")), list(Book.objects.defer("extra", "price"))):
        back = round_trip(sent)
        assert [b.get_deferred_fields() for b in back] == [b.get_deferred_fields() for b in sent]
        assert back[0].get_deferred_fields()
        with CaptureQueriesContext(connection) as queries:
            assert back[0].price == Decimal("9.90")
        assert len(queries) == 1


@pytest.mark.django_db
@pytest.mark.usefixtures("library")
def test_one_payload_may_hold_rows_of_several_shapes() -> None:
    routed = Book(title="routed")
    routed._state.db = "default"
    sent = [Book.objects.get(title="book 0"), *Book.objects.only("title"), Book(), routed]
    back = round_trip(sent)
    assert [typed(book) for book in back] == [typed(book) for book in sent]
    assert [book._state.adding for book in back] == [book._state.adding for book in sent]


@pytest.mark.django_db
@pytest.mark.usefixtures("library")
@pytest.mark.skipif(django.VERSION < (6, 1), reason="fetch modes came with Django 6.1")
@pytest.mark.parametrize("name", ["FETCH_PEERS", "FETCH_RAISE", "FETCH_ONE"])
def test_the_fetch_mode_survives(name: str) -> None:
    mode = getattr(models, name)
    queryset: Any = Book.objects.only("title")
    sent = list(queryset.fetch_mode(mode))
    back = round_trip(sent)
    assert [type(book._state.fetch_mode) for book in back] == [type(mode)] * 4
    assert payload_of(sent).count(fingerprint(Book)) == 1


@pytest.mark.django_db
@pytest.mark.usefixtures("library")
def test_annotations_survive() -> None:
    back = round_trip(list(Author.objects.annotate(written=Count("books")).order_by("name")))
    assert [author.written for author in back] == [2, 2]


@pytest.mark.django_db
@pytest.mark.usefixtures("library")
def test_rows_of_values_come_back_as_lists() -> None:
    assert round_trip(list(Book.objects.values("title", "extra")))[0] == {
        "title": "book 0",
        "extra": {"n": 0},
    }
    named: Any = list(Book.objects.values_list("title", "price", named=True))
    back = round_trip(named)
    assert back == named
    assert back[0].title == "book 0"


@pytest.mark.django_db
def test_a_changed_row_can_be_saved_again(library: list[Book]) -> None:
    back = round_trip(Book.objects.get(pk=library[0].pk))
    back.title = "renamed"
    back.save()
    assert Book.objects.get(pk=back.pk).title == "renamed"
    assert Book.objects.count() == 4


@pytest.mark.django_db
@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("nested", [False, True])
def test_a_queryset_is_never_stored(nested: bool) -> None:
    for queryset in (Book.objects.all(), Book.objects.values("pk"), Book.objects.raw("SELECT 1")):
        value: Any = {"books": [queryset]} if nested else queryset
        with (
            CaptureQueriesContext(connection) as queries,
            pytest.raises(UnstorableValue, match=r"QuerySet.*return list\(queryset\)"),
        ):
            round_trip(value)
        assert len(queries) == 0
    with pytest.raises(UnstorableValue, match=r"return list\(manager\.all\(\)\)"):
        round_trip(Book.objects)


def payload_of(value: Any) -> bytes:
    return dump_value(value, get_serializer("pickle")).data


@contextmanager
def registered(**fields: Any) -> Iterator[type[models.Model]]:
    """Register a model for the time of a block, as one deploy of the project would."""
    meta = type("Meta", (), {"app_label": "library", "managed": False})
    try:
        yield type("Changing", (models.Model,), {"__module__": __name__, "Meta": meta, **fields})
    finally:
        del apps.all_models["library"]["changing"]
        apps.clear_cache()


def char(length: int = 5) -> Any:
    return models.CharField(max_length=length)


@pytest.fixture
def old_rows() -> bytes:
    with registered(name=char()) as model:
        return payload_of([model(pk=1, name="a")])


@pytest.mark.parametrize(
    "fields",
    [
        {"name": char(), "other": char()},
        {},
        {"title": char()},
        {"name": models.IntegerField()},
        {"id": models.UUIDField(primary_key=True), "name": char()},
    ],
    ids=["added", "removed", "renamed", "retyped", "rekeyed"],
)
def test_a_migrated_model_makes_old_rows_misses(old_rows: bytes, fields: dict[str, Any]) -> None:
    with registered(**fields), pytest.raises(EntryRejected, match="changed since"):
        load_value(*sealed(old_rows))


def test_a_reloaded_model_still_reads_its_rows(old_rows: bytes) -> None:
    for _ in range(2):
        with registered(name=char(9)) as model:
            back = load_value(*sealed(old_rows))
            assert (type(back[0]), back[0].name) == (model, "a")


def test_rows_of_a_model_that_is_gone_are_misses(old_rows: bytes) -> None:
    with pytest.raises(EntryRejected, match=r"library\.changing is gone"):
        load_value(*sealed(old_rows))


def test_another_feature_release_of_django_makes_old_rows_misses(
    old_rows: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(django, "VERSION", (django.VERSION[0], django.VERSION[1] + 1, 0))
    with registered(name=char()), pytest.raises(EntryRejected, match="changed since"):
        load_value(*sealed(old_rows))


def test_a_model_with_its_own_pickling_has_a_fingerprint_too() -> None:
    def getstate(self: Any) -> Any:
        return models.Model.__getstate__(self)

    with registered(name=char(), __getstate__=getstate) as model:
        data = payload_of([model(pk=1, name="a")])
        assert load_value(*sealed(data))[0].name == "a"
    with registered(title=char()), pytest.raises(EntryRejected, match="changed since"):
        load_value(*sealed(data))


def test_a_model_that_is_not_the_registered_one_is_refused() -> None:
    with registered(name=char()) as model:
        sent = model(pk=1, name="a")
    with pytest.raises(UnstorableValue, match=r"library\.Changing"):
        round_trip(sent)
    with registered(name=char()), pytest.raises(UnstorableValue, match="registered"):
        round_trip(sent)


def test_a_list_of_rows_is_smaller_than_djangos_own_pickle() -> None:
    users = [User(pk=n, username=f"user{n}", date_joined=STAMP) for n in range(100)]
    assert len(payload_of(users)) < len(pickle.dumps(users, 5)) * 0.8


def test_the_shape_is_written_once() -> None:
    groups = [Group(pk=n, name="g") for n in range(50)]
    assert payload_of(groups).count(fingerprint(Group)) == 1
    assert round_trip(groups) == groups
