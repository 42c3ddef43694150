"""Django's own types as arguments: one key for what is one thing, and back from a message."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import AbstractUser, AnonymousUser, Group
from django.db import DatabaseError, connection, models
from django.test.utils import CaptureQueriesContext
from django.utils import translation
from django.utils.functional import SimpleLazyObject, lazy
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy, ngettext_lazy

from async_cache.canonical import canonical
from async_cache.exceptions import MessageRejected, UnkeyableArgument
from async_cache.wire import dumps_arguments, loads_arguments
from tests.app.models import Author, Book

pytestmark = pytest.mark.django_db(databases=["default", "other"])


def travel(value: Any) -> Any:
    return loads_arguments(json.loads(json.dumps(dumps_arguments(value))))


@pytest.fixture
def author() -> Author:
    return Author.objects.create(name="Ada")


@pytest.fixture
def passing_models() -> Iterator[None]:
    """Forget the models that the test defines."""
    registered = apps.all_models["library"]
    before = set(registered)
    try:
        yield
    finally:
        for name in set(registered) - before:
            del registered[name]
        apps.clear_cache()


class PrimaryRouter:
    """Reads from the replica ``other``, writes to ``default``."""

    def db_for_read(self, model: type[models.Model], **hints: Any) -> str:
        return "other"

    def db_for_write(self, model: type[models.Model], **hints: Any) -> str:
        return "default"


# Keys


def test_an_instance_is_its_label_and_primary_key(author: Author) -> None:
    loaded = Author.objects.get(pk=author.pk)
    loaded.name = "changed"
    assert canonical(loaded) == canonical(author)
    assert canonical(author) != canonical(Author.objects.create(name="Ada"))
    assert canonical(author) != canonical(Group(pk=author.pk))
    assert canonical(author) != canonical(author.pk)
    assert canonical(("library.Author", author.pk, "default")) != canonical(author)


def test_deferred_fields_do_not_count_and_are_not_loaded(author: Author) -> None:
    deferred = Author.objects.only("pk").get(pk=author.pk)
    with CaptureQueriesContext(connection) as queries:
        assert canonical(deferred) == canonical(author)
    assert not len(queries)


def test_a_primary_key_is_what_the_database_gets() -> None:
    assert canonical(Author(pk="5")) == canonical(Author(pk=5))
    with pytest.raises(UnkeyableArgument, match="impossible primary key"):
        canonical(Author(pk="five"))


def test_an_unsaved_instance_is_refused(author: Author) -> None:
    with pytest.raises(UnkeyableArgument, match=r"unsaved library\.Author; save it first"):
        canonical(Author(name="Ada"))
    author.delete()
    with pytest.raises(UnkeyableArgument, match="unsaved"):
        canonical([author])


def test_rows_of_two_databases_are_two() -> None:
    Author.objects.create(pk=7, name="here")
    Author.objects.using("other").create(pk=7, name="there")
    here, there = Author.objects.get(pk=7), Author.objects.using("other").get(pk=7)
    assert canonical(here) != canonical(there)
    assert (travel(here).name, travel(there).name) == ("here", "there")
    assert travel(there)._state.db == "other"


def test_a_row_of_a_replica_is_the_row_of_its_primary(settings: Any) -> None:
    Author.objects.create(pk=7, name="primary")
    Author.objects.using("other").create(pk=7, name="replica")
    settings.DATABASE_ROUTERS = [f"{__name__}.PrimaryRouter"]
    primary, replica = Author.objects.using("default").get(pk=7), Author.objects.get(pk=7)
    assert replica._state.db == "other"
    assert canonical(replica) == canonical(primary)
    assert travel(replica).name == "primary"


@pytest.mark.usefixtures("passing_models")
def test_a_proxy_is_not_its_concrete_model(author: Author) -> None:
    class Writer(Author):
        class Meta:
            app_label = "library"
            proxy = True

    proxy = Writer.objects.get(pk=author.pk)
    assert canonical(proxy) != canonical(author)
    assert type(travel(proxy)) is Writer
    assert type(travel(author)) is Author


@pytest.mark.usefixtures("passing_models")
def test_a_composite_primary_key() -> None:
    class Seat(models.Model):
        pk = models.CompositePrimaryKey("bank", "number")
        bank = models.CharField(max_length=1)
        number = models.IntegerField()

        class Meta:
            app_label = "library"

    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE library_seat (bank char(1), number integer, PRIMARY KEY (bank, number))"
        )
    seats = [Seat._default_manager.create(bank="a", number=number) for number in (1, 2)]
    assert canonical(seats[0]) != canonical(seats[1])
    assert canonical(Seat(bank="a", number="1")) == canonical(seats[0])
    assert travel(seats) == seats
    with pytest.raises(UnkeyableArgument, match="unsaved"):
        canonical(Seat(bank="a"))


def test_a_model_class_is_its_label() -> None:
    assert canonical(Author) != canonical(Book)
    assert canonical(Author) != canonical("library.Author")
    assert travel([Author, Book]) == [Author, Book]
    for abstract in (models.Model, AbstractUser):
        with pytest.raises(UnkeyableArgument, match="abstract model"):
            canonical(abstract)


def test_a_lazy_object_is_what_it_wraps(author: Author) -> None:
    lazy_author = SimpleLazyObject(lambda: author)
    assert canonical(lazy_author) == canonical(author)
    assert canonical(SimpleLazyObject(lambda: SimpleLazyObject(lambda: "a"))) == canonical("a")
    assert type(travel(SimpleLazyObject(lambda: author))) is Author
    with pytest.raises(UnkeyableArgument, match="AnonymousUser"):
        canonical(SimpleLazyObject(AnonymousUser))


def test_a_lazy_translation_is_its_text_in_the_active_language() -> None:
    text = gettext_lazy("Yes")
    assert canonical(text) == canonical("Yes")
    assert canonical(ngettext_lazy("%d day", "%d days", 2)) == canonical("%d days")
    with translation.override("fr"):
        assert canonical([text]) == canonical(["Oui"])
        assert travel(text) == "Oui"
        assert type(travel(text)) is str


def test_a_lazy_value_that_is_no_text_is_refused() -> None:
    for value in (lazy(int, int)("1"), ngettext_lazy("%(n)d day", "%(n)d days", "n")):
        with pytest.raises(UnkeyableArgument, match="pass what it evaluates to"):
            canonical(value)


def test_safe_text_is_text() -> None:
    assert canonical(mark_safe("<b>")) == canonical("<b>")
    assert type(travel(mark_safe("<b>"))) is str


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda: Author.objects.all(), "lazy queryset; pass the values it filters by"),
        (lambda: Author.objects.raw("SELECT 1"), "lazy queryset; pass the values it filters by"),
        (lambda: Author.objects, "is a manager; pass the model"),
        (lambda: Author(pk=1).books, "is a manager; pass the model"),
    ],
)
def test_querysets_and_managers_are_refused_and_not_run(make: Any, remedy: str) -> None:
    with (
        CaptureQueriesContext(connection) as queries,
        pytest.raises(UnkeyableArgument, match=remedy),
    ):
        canonical({"of": make()})
    assert not len(queries)


# Messages


def test_instances_of_one_model_cost_one_query(author: Author) -> None:
    authors = [author, *(Author.objects.create(name=str(n)) for n in range(5))]
    value = {"all": authors, "one": (author,), "twice": [author]}
    data = json.loads(json.dumps(dumps_arguments(value)))
    with CaptureQueriesContext(connection) as queries:
        assert loads_arguments(data) == value
    assert len(queries) == 1


def test_many_instances_come_in_chunks() -> None:
    Author.objects.bulk_create(Author(name=str(n)) for n in range(1100))
    authors = list(Author.objects.all())
    with CaptureQueriesContext(connection) as queries:
        assert travel(authors) == authors
    assert len(queries) == 3


@pytest.mark.usefixtures("passing_models")
def test_a_message_loads_what_the_default_manager_hides(author: Author) -> None:
    class Nobody(models.Manager[Any]):
        def get_queryset(self) -> models.QuerySet[Any]:
            return super().get_queryset().none()

    class Hidden(Author):
        objects = Nobody()

        class Meta:
            app_label = "library"
            proxy = True

    assert not Hidden.objects.filter(pk=author.pk).exists()
    assert travel(Hidden(pk=author.pk)).name == "Ada"


def test_a_row_that_is_gone_rejects_the_message(author: Author) -> None:
    data = dumps_arguments([author])
    author.delete()
    with pytest.raises(MessageRejected, match=r"a library\.Author that is not in the database"):
        loads_arguments(data)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (["library.Author", 1, "nowhere"], "'nowhere', which is not in DATABASES"),
        (["library.Nothing", 1, "default"], "the model 'library.Nothing'"),
        (["nonsense", 1, "default"], "the model 'nonsense'"),
        (["library.Author", "x", "default"], "does not load"),
        ([5, 1, "default"], "something else than a label"),
        (["library.Author", 1], "does not load"),
    ],
)
def test_what_names_no_row_rejects_the_message(body: list[Any], problem: str) -> None:
    with pytest.raises(MessageRejected, match=problem):
        loads_arguments({"model": {"tuple": body}})


@pytest.mark.usefixtures("passing_models")
def test_a_database_that_fails_is_no_rejected_message() -> None:
    class Tableless(models.Model):
        class Meta:
            app_label = "library"

    with pytest.raises(DatabaseError):
        travel(Tableless(pk=1))
