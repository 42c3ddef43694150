"""``manage.py async_cache``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from io import StringIO
from typing import Any, ClassVar

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.test import override_settings

from async_cache import MISSING, AsyncCacheJob, QuerySetGetJob
from async_cache.exceptions import ConfigurationError
from async_cache.jobs import registry
from async_cache.management import subcommands
from async_cache.management.calls import parse_call
from async_cache.management.subcommands import Subcommand, register_subcommand
from async_cache.options import OPTIONS

FETCHED: list[Any] = []


class Rates(AsyncCacheJob[Any]):
    ttl = 60
    dispatcher = "immediate"

    def fetch(self, base: Any, scale: int = 1) -> Any:
        FETCHED.append((base, scale))
        return {"base": base, "secret": "hunter2"}

    def tags(self, base: Any, scale: int = 1) -> tuple[str, ...]:
        return ("rates",)


class Priced(AsyncCacheJob[Any]):
    def __init__(self, currency: str) -> None:
        self.currency = currency

    def fetch(self) -> Any:
        FETCHED.append(self.currency)
        return self.currency


RATES = "tests.test_command.Rates"
PRICED = "tests.test_command.Priced"
USERS = "async_cache.QuerySetGetJob:auth.User"
REGISTERED = frozenset(registry.all_jobs())


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    FETCHED.clear()
    cache.clear()
    yield
    cache.clear()


def run(*words: str) -> str:
    out = StringIO()
    call_command("async_cache", *words, stdout=out, no_color=True)
    return out.getvalue().strip()


def fails(*words: str) -> str:
    with pytest.raises(CommandError) as caught:
        run(*words)
    return str(caught.value)


class TestList:
    @pytest.fixture(autouse=True)
    def only_these(self, monkeypatch: pytest.MonkeyPatch) -> None:
        kept = {name: registry.all_jobs()[name] for name in (RATES, PRICED)}
        kept["async_cache.QuerySetGetJob"] = QuerySetGetJob
        monkeypatch.setattr(registry, "_jobs", kept)

    def test_the_base_class_is_no_job(self) -> None:
        assert AsyncCacheJob.registered_name not in REGISTERED

    def test_names_options_and_sources(self) -> None:
        jobs = {RATES: {"grace": 5}, USERS: {"ttl": 7}}
        given = {"DEFAULTS": {"negative_ttl": 3}, "JOBS": jobs}
        with override_settings(ASYNC_CACHE=given):
            text = run("list")
            rows = json.loads(run("list", "--json"))
        assert list(rows) == sorted([RATES, PRICED, "async_cache.QuerySetGetJob", USERS])
        assert rows[RATES] == {
            "ttl": [60.0, "class"],
            "grace": [5.0, "JOBS"],
            "negative_ttl": [3.0, "DEFAULTS"],
            "tags": ["computed", "class"],
            "dispatcher": ["immediate", "class"],
        }
        assert rows[PRICED]["ttl"] == [600.0, "default"]
        assert rows[USERS]["ttl"] == [7.0, "JOBS"]
        assert f"{RATES}\n  ttl = 60.0 (class)\n  grace = 5.0 (JOBS)\n" in text

    def test_every_option(self) -> None:
        assert len(json.loads(run("list", "--json", "--all"))[PRICED]) == len(OPTIONS)

    def test_no_jobs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registry, "_jobs", {})
        assert "Define one" in run("list")


class TestCalls:
    def test_refresh_stores(self) -> None:
        assert run("refresh", RATES, "EUR") == "refreshed"
        assert FETCHED == [("EUR", 1)]
        assert Rates().peek("EUR") == {"base": "EUR", "secret": "hunter2"}

    @pytest.mark.parametrize(
        "words",
        [
            ("EUR", "scale=2"),
            ("base=EUR", "scale=2"),
            ('"EUR"', "2"),
            ("--args", '["EUR", 2]'),
            ("--args", '{"base": "EUR", "scale": 2}'),
            ("scale=2", "--args", '["EUR"]'),
        ],
    )
    def test_ways_to_say_a_call(self, words: tuple[str, ...]) -> None:
        run("refresh", RATES, *words)
        assert FETCHED == [("EUR", 2)]

    @pytest.mark.parametrize(
        ("word", "value"),
        [
            ("1", 1),
            ('"1"', "1"),
            ("null", None),
            ("a=b=c", "b=c"),
            ("[1, 2]", [1, 2]),
            ("NaNa", "NaNa"),
        ],
    )
    def test_values(self, word: str, value: Any) -> None:
        args, kwargs = parse_call([word])
        assert [*args, *kwargs.values()] == [value]

    def test_refresh_later(self) -> None:
        out = run("refresh", RATES, "EUR", "--later")
        assert out.startswith("dispatched: ")
        assert FETCHED == [("EUR", 1)]

    def test_constructor_arguments(self) -> None:
        run("refresh", PRICED, "--init", '["EUR"]')
        assert FETCHED == ["EUR"]
        assert Priced("EUR").peek() == "EUR"
        assert Priced("USD").peek() is MISSING

    def test_invalidate_keeps_the_value(self) -> None:
        Rates().refresh("EUR")
        assert run("invalidate", RATES, "EUR") == "invalidated"
        assert Rates().explain("EUR").status.value == "stale"

    def test_invalidate_tags(self) -> None:
        Rates().refresh("EUR")
        assert run("invalidate", "--tags", "other", "more") == "invalidated"
        assert Rates().explain("EUR").status.value == "fresh"
        assert run("invalidate", "--tags", "other", "rates") == "invalidated"
        assert Rates().explain("EUR").status.value == "stale"

    def test_delete_removes_one_value(self) -> None:
        Rates().refresh("EUR")
        Rates().refresh("USD")
        assert run("delete", RATES, "EUR") == "deleted"
        assert Rates().peek("EUR") is MISSING
        assert Rates().peek("USD") is not MISSING

    def test_clear_removes_all(self) -> None:
        Rates().refresh("EUR")
        Rates().refresh("USD")
        assert run("clear", RATES) == "cleared"
        assert Rates().peek("EUR") is MISSING
        assert Rates().peek("USD") is MISSING

    @pytest.mark.django_db
    def test_a_job_of_a_model(self) -> None:
        User.objects.create(username="bob")
        assert run("refresh", USERS, "username=bob") == "refreshed"
        assert run("refresh", USERS, "username=eve") == "refreshed: the answer is User.DoesNotExist"
        stored = QuerySetGetJob(User).peek(username="bob")
        assert stored is not MISSING
        assert stored.username == "bob"


class TestExplain:
    def test_a_miss(self) -> None:
        rows = json.loads(run("explain", RATES, "EUR", "--json"))
        assert (rows["job"], rows["status"], rows["age"]) == (RATES, "miss", None)
        assert FETCHED == []

    def test_a_fresh_value_is_told_not_shown(self) -> None:
        Rates().refresh("EUR")
        text = run("explain", RATES, "EUR")
        told = dict(line.split(maxsplit=1) for line in text.splitlines() if " " in line.strip())
        assert told["status"] == "fresh"
        assert told["tags"] == "rates"
        assert "hunter2" not in text


class TestMistakes:
    def test_unknown_job(self) -> None:
        text = fails("clear", "tests.test_command.Rate")
        assert "tests.test_command.Rate" in text
        assert f"Did you mean '{RATES}'?" in text

    def test_unknown_model(self) -> None:
        assert "Did you mean 'auth.User'?" in fails("clear", "async_cache.QuerySetGetJob:auth.Usr")

    def test_constructor_arguments_are_missing(self) -> None:
        assert "--init" in fails("clear", PRICED)

    def test_arguments_do_not_fit(self) -> None:
        assert "missing a required argument: 'base'" in fails("refresh", RATES)
        assert "'colour'" in fails("explain", RATES, "EUR", "colour=red")

    @pytest.mark.parametrize("words", [("--args", "{"), ("--args", "3"), ("--init", "{}")])
    def test_json_that_is_none(self, words: tuple[str, ...]) -> None:
        assert words[0] in fails("refresh", RATES, *words)

    def test_an_argument_without_a_canonical_form_cannot_be_given(self) -> None:
        deep = "[" * 80 + "]" * 80
        assert "UnkeyableArgument" in fails("explain", RATES, deep)

    def test_no_subcommand(self) -> None:
        with pytest.raises(CommandError, match="subcommand"):
            run()

    def test_a_wrong_setting_is_named(self) -> None:
        with override_settings(ASYNC_CACHE={"QUEUE_SIZE": 0}):
            assert 'ASYNC_CACHE["QUEUE_SIZE"]' in fails("list")


class Hello(Subcommand):
    name: ClassVar[str] = "hello"
    help: ClassVar[str] = "greet"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("whom")

    def run(self, command: BaseCommand, options: Mapping[str, Any]) -> None:
        command.stdout.write(f"hello {options['whom']}")


class TestRegistry:
    @pytest.fixture(autouse=True)
    def apart(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(subcommands, "_registry", dict(subcommands.subcommands()))

    def test_an_app_adds_its_own(self) -> None:
        register_subcommand(Hello())
        register_subcommand(Hello())
        assert run("hello", "bob") == "hello bob"
        assert "clear" in subcommands.subcommands()

    def test_a_name_is_taken_once(self) -> None:
        class Other(Hello): ...

        register_subcommand(Hello())
        with pytest.raises(ConfigurationError, match="hello"):
            register_subcommand(Other())
