"""Jobs that cache ORM reads."""

from __future__ import annotations

import datetime as dt
import decimal
from typing import Any

import pytest
from django.db import connection
from django.db.models import CharField, Count, F, Prefetch, Q
from django.test.utils import CaptureQueriesContext

from async_cache import (
    MISSING,
    AsyncCacheJob,
    ConfigurationError,
    QuerySetFilterJob,
    QuerySetGetJob,
    UnkeyableArgument,
    UnstorableValue,
    call,
)
from async_cache.serializers import rows
from async_cache.signals import entry_rejected
from async_cache.testing import freeze
from tests.app.models import Author, Book
from tests.jobs.support import Shelf, heard

pytestmark = pytest.mark.django_db(databases=["default", "other"], transaction=True)


@pytest.fixture
def books() -> list[Book]:
    ann, bob = (Author.objects.create(name=name, email=f"{name}@x.org") for name in ("Ann", "Bob"))
    when = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    return [
        Book.objects.create(
            title=title, author=author, price=decimal.Decimal("9.90"), published=published
        )
        for title, author, published in (("A", ann, when), ("B", bob, None), ("C", ann, when))
    ]


def queries(work: Any) -> int:
    with CaptureQueriesContext(connection) as captured:
        work()
    return len(captured)


class TestGet:
    def test_a_hit_is_the_instance_and_no_query(self, each_alias: str, books: list[Book]) -> None:
        job = QuerySetGetJob(Book)
        first = job.get(title="A")
        with CaptureQueriesContext(connection) as captured:
            found = job.get(title="A")
        reads = [one for one in captured if Book._meta.db_table in one["sql"]]
        assert not reads
        assert found == first
        assert type(found) is Book
        assert found.price == decimal.Decimal("9.90")
        assert type(found.price) is decimal.Decimal
        assert found.published == books[0].published
        assert not found._state.adding
        assert found._state.db == "default"
        found.title = "changed"
        found.save()
        assert Book.objects.get(pk=found.pk).title == "changed"

    def test_does_not_exist_is_raised_on_a_hit_as_on_a_miss(
        self, alias: str, books: list[Book]
    ) -> None:
        job = QuerySetGetJob(Book)
        messages = set()
        for _ in range(2):
            with pytest.raises(Book.DoesNotExist) as caught:
                job.get(title="none")
            messages.add(str(caught.value))
        assert messages == {"Book matching query does not exist."}
        assert job.explain(title="none").negative

    def test_several_are_multiple_objects_returned(self, alias: str, books: list[Book]) -> None:
        job = QuerySetGetJob(Book)
        for _ in range(2):
            with pytest.raises(Book.MultipleObjectsReturned, match="more than one"):
                job.get(author__name="Ann")
        assert job.explain(author__name="Ann").negative

    def test_another_model_s_does_not_exist_is_a_failure(self, alias: str) -> None:
        class Reading(QuerySetGetJob[Book]):
            model = Book

            def fetch(self, **lookup: Any) -> Book:
                Author.objects.get(name="nobody")
                raise AssertionError

        with pytest.raises(Author.DoesNotExist):
            Reading().get(title="A")
        assert Reading().explain(title="A").failures == 1

    def test_the_message_survives_and_the_worker_refreshes(
        self, alias: str, shelf: Shelf, books: list[Book]
    ) -> None:
        job = QuerySetGetJob(Book, ttl=60)
        with freeze() as clock:
            job.get(author=books[1].author, published=None)
            Book.objects.filter(title="B").update(title="B2")
            clock.advance(61)
            assert job.get(author=books[1].author, published=None).title == "B"
            shelf.run_all()
            assert job.get(author=books[1].author, published=None).title == "B2"

    def test_equal_sources_share_an_entry_and_different_do_not(
        self, local: str, books: list[Book]
    ) -> None:
        keys = {
            QuerySetGetJob(source).explain(pk=1).key
            for source in (Book, Author, Book.out, Book.objects.using("other"))
        }
        assert len(keys) == 4
        assert (
            QuerySetGetJob(Book).explain(pk=1).key == QuerySetGetJob(Book, ttl=3).explain(pk=1).key
        )
        assert QuerySetGetJob(Book).explain(pk=1).job == "async_cache.QuerySetGetJob:library.Book"

    def test_settings_name_it_with_the_model(self, local: str, settings: Any) -> None:
        settings.ASYNC_CACHE = {
            **settings.ASYNC_CACHE,
            "JOBS": {"async_cache.QuerySetGetJob:library.Author": {"ttl": 5, "jitter": 0}},
        }
        Author.objects.create(name="Ann")
        with freeze():
            job = QuerySetGetJob(Author)
            job.get(name="Ann")
            assert job.explain(name="Ann").fresh_for == pytest.approx(5)


class TestMany:
    def test_get_many_of_pks_is_one_query(self, alias: str, books: list[Book]) -> None:
        job = QuerySetGetJob(Book)
        pks = [books[2].pk, 10_000, books[0].pk, str(books[0].pk), books[1].pk]
        found: list[Any] = []
        assert queries(lambda: found.extend(job.get_many(pks))) == 1
        assert [found[0], found[2], found[3], found[4]] == [books[2], books[0], books[0], books[1]]
        assert isinstance(found[1], Book.DoesNotExist)
        assert queries(lambda: job.get_many(pks)) == 0
        assert job.get(pk=books[0].pk) == books[0]
        assert queries(lambda: job.get(pk=books[0].pk)) == 0, "the same entries as get"

    def test_stale_pks_are_one_message_and_one_query(
        self, alias: str, shelf: Shelf, books: list[Book]
    ) -> None:
        job = QuerySetGetJob(Book, ttl=60)
        pks = [book.pk for book in books]
        with freeze() as clock:
            job.get_many(pks)
            clock.advance(61)
            job.get_many(pks)
            assert [one.keys for one in shelf.messages] == [3]
            assert queries(shelf.run_all) == 1

    def test_other_lookups(self, alias: str, books: list[Book]) -> None:
        job = QuerySetGetJob(Book)
        calls = [{"title": "A"}, call(title="C"), {"title__startswith": "B"}, {"title": "none"}]
        found = job.get_many(calls)
        assert found[:3] == [books[0], books[2], books[1]]
        assert isinstance(found[3], Book.DoesNotExist)
        (several,) = job.get_many([{"author__name": "Ann"}])
        assert isinstance(several, Book.MultipleObjectsReturned)

    def test_a_pk_that_is_none_of_the_kind(self, alias: str, books: list[Book]) -> None:
        good, bad = QuerySetGetJob(Book).get_many([books[0].pk, "no number"])
        assert good == books[0]
        assert isinstance(bad, ValueError)


class TestFilter:
    def test_it_is_a_list_and_filter_is_get(self, alias: str, books: list[Book]) -> None:
        job = QuerySetFilterJob(Book)
        for _ in range(2):
            found = job.filter(author__name="Ann")
            assert type(found) is list
            assert found == [books[0], books[2]]
        assert job.get(author__name="Ann") == found
        assert queries(lambda: job.get(author__name="Ann")) == 0
        assert job.filter(title="none") == []
        assert job.filter() == books

    def test_select_related_and_prefetch_related_are_kept(
        self, alias: str, shelf: Shelf, books: list[Book]
    ) -> None:
        books[0].editors.add(books[1].author)
        source = Book.objects.select_related("author").prefetch_related("editors")
        job = QuerySetFilterJob(source, ttl=60)
        with freeze() as clock:
            for turn in range(3):
                job.filter(title="A")
                if turn == 1:
                    clock.advance(61)
                    job.filter(title="A")
                    shelf.run_all()
                found: list[Book] = []

                def read(found: list[Book] = found) -> None:
                    (book,) = job.filter(title="A")
                    assert book.author.name == "Ann"
                    assert [one.name for one in book.editors.all()] == ["Bob"]

                assert queries(read) == 0

    def test_only_and_ordering_and_filters_are_kept(self, alias: str, books: list[Book]) -> None:
        source = Book.objects.only("title").filter(author__isnull=False, pk__in=[1, 2, 3, 4, 5, 6])
        job = QuerySetFilterJob(Book.objects.order_by("-title"))
        assert [book.title for book in job.filter()] == ["C", "B", "A"]
        (book,) = QuerySetFilterJob(Book.objects.only("title")).filter(title="A")
        (book,) = QuerySetFilterJob(Book.objects.only("title")).filter(title="A")
        assert "price" in book.get_deferred_fields()
        assert book.price == decimal.Decimal("9.90")
        assert source is not None
        published = Book.objects.filter(published__isnull=False)
        assert [one.title for one in QuerySetFilterJob(published).filter()] == ["A", "C"]

    def test_a_manager(self, alias: str, shelf: Shelf, books: list[Book]) -> None:
        job = QuerySetFilterJob(Book.out, ttl=0)
        assert [book.title for book in job.filter()] == ["A", "C"]
        Book.objects.filter(title="B").update(published=books[0].published)
        job.filter()
        shelf.run_all()
        assert [book.title for book in job.filter()] == ["A", "B", "C"]
        shelf.messages.clear()

    def test_using_is_kept(self, alias: str, shelf: Shelf, books: list[Book]) -> None:
        Author.objects.using("other").create(name="Other")
        job = QuerySetFilterJob(Author.objects.using("other"), ttl=0)
        (author,) = job.filter()
        assert author._state.db == "other"
        job.filter()
        shelf.run_all()
        (author,) = job.filter()
        assert author.name == "Other"
        assert author._state.db == "other"
        shelf.messages.clear()

    @pytest.mark.parametrize(
        "source",
        [
            lambda: Book.objects.all()[:3],
            lambda: Book.objects.annotate(count=Count("editors")),
            lambda: Book.objects.filter(Q(title="A") | Q(title="B")),
            lambda: Book.objects.exclude(title="A"),
            lambda: Book.objects.filter(title=F("uid")),
            lambda: Book.objects.values("title"),
            lambda: Book.objects.values_list("title"),
            lambda: Book.objects.raw("SELECT * FROM library_book"),
            lambda: Book.objects.filter(title="A").union(Book.objects.filter(title="B")),
            lambda: Book.objects.extra(where=["1=1"]),
            lambda: Book.objects.prefetch_related(Prefetch("editors", Author.objects.all())),
            lambda: Book.objects.filter(author__in=Author.objects.filter(name="Ann")),
            lambda: Book.objects.order_by(F("title").desc()),
            lambda: Book.objects.select_for_update(),
            lambda: Book.objects.filter(author__name="Ann"),
        ],
    )
    def test_what_cannot_travel_is_refused(self, local: str, source: Any) -> None:
        with pytest.raises(ConfigurationError, match=r"(?i)subclass"):
            QuerySetFilterJob(source())

    def test_what_is_no_source_is_refused(self, local: str) -> None:
        with pytest.raises(ConfigurationError, match="model, a manager or a queryset"):
            QuerySetFilterJob("Book")  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="needs a model"):
            QuerySetFilterJob()

    def test_a_subclass_may_query_as_it_likes(
        self, alias: str, shelf: Shelf, books: list[Book]
    ) -> None:
        class Not(QuerySetFilterJob[Book]):
            model = Book
            ttl = 0

            def get_queryset(self) -> Any:
                return Book.objects.exclude(title="A")

        job = Not()
        assert [book.title for book in job.filter()] == ["B", "C"]
        Book.objects.filter(title="B").delete()
        job.filter()
        shelf.run_all()
        assert [book.title for book in job.filter(author__name="Ann")] == ["C"]
        shelf.messages.clear()

    def test_an_unkeyable_lookup_is_named(self, local: str) -> None:
        with pytest.raises(UnkeyableArgument, match="author"):
            QuerySetFilterJob(Book).filter(author=object())


def test_p11_a_lazy_queryset_is_never_stored(alias: str, books: list[Book]) -> None:
    class Lazy(AsyncCacheJob[Any]):
        def fetch(self) -> Any:
            return Book.objects.filter(author__name="Ann")

    with pytest.raises(UnstorableValue, match="list"):
        Lazy().get()


class Migrated(CharField):  # type: ignore[type-arg]
    """What a field of the model is after a migration."""


def test_p7_a_migrated_model_makes_old_entries_misses(
    alias: str, books: list[Book], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forget() -> None:
        rows.fingerprint.cache_clear()
        rows._attnames.cache_clear()

    job = QuerySetGetJob(Book)
    job.get(title="A")
    monkeypatch.setattr(Book._meta.get_field("title"), "__class__", Migrated)
    forget()
    try:
        with heard(entry_rejected) as events:
            assert job.peek(title="A") is MISSING
            assert job.get_many([{"title": "A"}])[0] == books[0]
            assert job.get(title="A").title == "A"
        assert len(events) == 2, "one each for peek and get_many; get finds the new one"
    finally:
        monkeypatch.undo()
        forget()
