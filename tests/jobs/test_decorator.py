"""`@cached` on functions and methods."""

from __future__ import annotations

from typing import Any

import pytest

from async_cache import (
    MISSING,
    AsyncCacheJob,
    ConfigurationError,
    Status,
    UnkeyableArgument,
    cached,
)
from tests.app.models import Author
from tests.jobs.support import Shelf

CALLS: list[Any] = []


@cached(ttl=60, tags=("rates",))
def rates(base: str, scale: int = 1) -> str:
    """Return the rates."""
    CALLS.append(base)
    return f"{base} {scale} {len(CALLS)}"


@cached
def plain() -> int:
    CALLS.append("plain")
    return len(CALLS)


@cached(ttl=lambda value: value, tags=lambda number: (f"n{number}",), jitter=0.0)
def chosen(number: int) -> int:
    return number


class Shop:
    """Has a cached method; it is its own key."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __cache_key__(self) -> str:
        return self.name

    @cached(ttl=60)
    def total(self, day: str = "today") -> str:
        CALLS.append(self.name)
        return f"{self.name} {day} {len(CALLS)}"

    @staticmethod
    @cached(ttl=60)
    def shared(number: int) -> int:
        CALLS.append(number)
        return number


class Unkeyable:
    @cached(ttl=60)
    def total(self) -> int:
        return 1


@pytest.fixture(autouse=True)
def _reset() -> None:
    CALLS.clear()


def test_calling_it_is_get(alias: str) -> None:
    assert rates("EUR") == rates(base="EUR") == rates("EUR", 1) == "EUR 1 1"
    assert rates("EUR", scale=2) == "EUR 2 2"
    assert plain() == plain() == 3
    assert rates.__name__ == "rates"
    assert rates.__doc__ == "Return the rates."
    with pytest.raises(TypeError, match="bas"):
        rates(bas="EUR")  # type: ignore[call-arg]


def test_it_has_the_verbs(alias: str, shelf: Shelf) -> None:
    assert isinstance(rates.job, AsyncCacheJob)
    assert rates.peek("EUR") is MISSING
    rates("EUR")
    assert rates.peek("EUR") == "EUR 1 1"
    rates.invalidate("EUR")
    assert rates.explain("EUR").status is Status.STALE
    assert rates.refresh("EUR") == "EUR 1 2"
    rates.set("given", "EUR")
    assert rates("EUR") == "given"
    rates.delete("EUR")
    assert rates.peek("EUR") is MISSING
    handle = rates.refresh_later("EUR")
    shelf.run_all()
    assert handle.wait(5)
    assert rates("EUR") == "EUR 1 3"
    rates.clear()
    assert rates.get_many([("EUR",)]) == ["EUR 1 4"]


def test_the_worker_finds_it_by_its_path(alias: str, shelf: Shelf) -> None:
    rates("EUR")
    rates.invalidate("EUR")
    rates("EUR")
    assert shelf.messages[0].message.job == "tests.jobs.test_decorator.rates"
    shelf.run_all()
    assert rates("EUR") == "EUR 1 2"


def test_ttl_and_tags_may_be_functions(alias: str) -> None:
    assert chosen(50) == 50
    assert chosen.explain(50).tags == ("n50",)
    assert chosen.explain(50).fresh_for == pytest.approx(50, abs=2)


class TestMethods:
    def test_the_instance_is_part_of_the_key(self, alias: str) -> None:
        one, two = Shop("one"), Shop("two")
        assert one.total() == one.total("today") == Shop("one").total() == "one today 1"
        assert two.total() == "two today 2"
        one.total.invalidate()
        assert one.total.explain().status is Status.STALE
        assert two.total.explain().status is Status.FRESH
        two.total.set("given", day="today")
        assert two.total() == "given"
        assert Shop.total.job.explain(two).status is Status.FRESH

    def test_a_static_method(self, alias: str) -> None:
        assert Shop.shared(1) == Shop("x").shared(1) == 1
        assert CALLS == [1]

    def test_a_class_method(self, alias: str, monkeypatch: pytest.MonkeyPatch) -> None:
        @cached(ttl=60)  # type: ignore[misc]
        @classmethod
        def label(cls: type[Author], suffix: str) -> str:
            CALLS.append(suffix)
            return f"{cls._meta.label}{suffix}"

        monkeypatch.setattr(Author, "label", label, raising=False)
        model: Any = Author
        assert model.label("!") == model(name="Ann").label("!") == "library.Author!"
        assert CALLS == ["!"]
        model.label.invalidate("!")
        assert model.label.explain("!").status is Status.STALE

    def test_an_instance_without_a_canonical_form_is_named(self, local: str) -> None:
        with pytest.raises(UnkeyableArgument, match="self"):
            Unkeyable().total()

    @pytest.mark.django_db
    def test_a_model_instance(self, alias: str, monkeypatch: pytest.MonkeyPatch) -> None:
        @cached(ttl=60)
        def greeting(self: Author) -> str:
            CALLS.append(self.pk)
            return f"I am {self.name}"

        monkeypatch.setattr(Author, "greeting", greeting, raising=False)
        author: Any = Author.objects.create(name="Ann")
        again: Any = Author.objects.get(pk=author.pk)
        assert author.greeting() == again.greeting() == "I am Ann"
        assert [author.pk] == CALLS


class TestMistakes:
    def test_an_unknown_option_is_named_at_once(self) -> None:
        with pytest.raises(ConfigurationError, match="Did you mean 'ttl'"):
            cached(tll=3)(lambda: 1)

    def test_it_takes_functions_only(self) -> None:
        with pytest.raises(ConfigurationError, match="takes a function"):
            cached(ttl=3)(staticmethod(len))
        with pytest.raises(ConfigurationError, match="takes a function"):
            cached(ttl=3)(Shop)

    def test_an_attribute_it_does_not_have(self) -> None:
        with pytest.raises(AttributeError, match="nothing"):
            rates.nothing  # noqa: B018
