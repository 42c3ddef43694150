"""The ASYNC_CACHE setting and the options of jobs."""

from __future__ import annotations

import math
import threading
from datetime import timedelta
from typing import Any, ClassVar

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from async_cache import conf
from async_cache.conf import DEFAULTS, OPTIONS, check_options, find_problems, get_settings, seconds
from async_cache.exceptions import ConfigurationError
from async_cache.options import clean_option, clean_options
from async_cache.resolution import configured, resolve_options

pytestmark = pytest.mark.shipped_timeouts


def problems(setting: object) -> list[str]:
    with override_settings(ASYNC_CACHE=setting):
        return [str(problem) for problem in find_problems()]


class TestSettings:
    @override_settings(ASYNC_CACHE={})
    def test_defaults(self) -> None:
        settings = get_settings()
        assert (settings.cache, settings.dispatcher, settings.key_prefix) == (
            "default",
            "celery",
            "ac",
        )
        assert settings.io_timeout == 0.25
        assert settings.publish_timeout == 0.3
        assert settings.queue_size == 1000
        assert settings.max_lifetime == 30 * 24 * 3600
        assert settings.enabled is True
        assert settings.defaults == DEFAULTS

    def test_the_setting_may_be_absent(self, settings: Any) -> None:
        if hasattr(settings, "ASYNC_CACHE"):
            del settings.ASYNC_CACHE
        assert get_settings().cache == "default"

    def test_is_read_on_access(self) -> None:
        with override_settings(ASYNC_CACHE={"CACHE": "one"}):
            assert get_settings().cache == "one"
            with override_settings(ASYNC_CACHE={"CACHE": "two"}):
                assert get_settings().cache == "two"
            assert get_settings().cache == "one"

    def test_is_kept_between_changes(self) -> None:
        with override_settings(ASYNC_CACHE={}):
            assert get_settings() is get_settings()

    @pytest.mark.parametrize(
        "name", ["ASYNC_CACHE", "CACHES", "SECRET_KEY", "SECRET_KEY_FALLBACKS"]
    )
    def test_a_change_moves_the_epoch(self, name: str, settings: Any) -> None:
        before = conf.epoch
        value = getattr(settings, name, {})
        with override_settings(**{name: value}):
            assert conf.epoch > before

    def test_a_reading_that_is_overtaken_by_a_change_is_not_kept(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        build = conf.inspect_setting
        reached, go_on = threading.Event(), threading.Event()

        def slow(raw: object) -> Any:
            built = build(raw)
            reached.set()
            assert go_on.wait(30)
            return built

        with override_settings(ASYNC_CACHE={"CACHE": "old"}):
            monkeypatch.setattr(conf, "inspect_setting", slow)
            reader = threading.Thread(target=get_settings)
            reader.start()
            assert reached.wait(30)
            monkeypatch.setattr(conf, "inspect_setting", build)
            with override_settings(ASYNC_CACHE={"CACHE": "new"}):
                go_on.set()
                reader.join(30)
                assert get_settings().cache == "new"

    def test_durations_are_seconds(self) -> None:
        given = {
            "IO_TIMEOUT": timedelta(milliseconds=100),
            "MAX_LIFETIME": timedelta(days=1),
            "DEFAULTS": {"ttl": timedelta(minutes=2)},
            "JOBS": {"shop.jobs.Rates": {"grace": timedelta(hours=1)}},
        }
        with override_settings(ASYNC_CACHE=given):
            settings = get_settings()
        assert settings.io_timeout == 0.1
        assert settings.max_lifetime == 86400.0
        assert settings.defaults["ttl"] == 120.0
        assert settings.defaults["grace"] == DEFAULTS["grace"]
        assert settings.jobs == {"shop.jobs.Rates": {"grace": 3600.0}}

    def test_nothing_of_it_can_be_changed(self) -> None:
        with override_settings(ASYNC_CACHE={"DEFAULTS": {}, "JOBS": {"a.B": {"ttl": 1}}}):
            settings = get_settings()
        for mapping in (settings.defaults, settings.jobs, settings.jobs["a.B"], settings.sections):
            with pytest.raises(TypeError):
                mapping["ttl"] = 1  # type: ignore[index]
        with pytest.raises(AttributeError):
            settings.cache = "other"  # type: ignore[misc]

    @pytest.mark.parametrize(
        "name", ["shop.jobs.Rates", "async_cache.QuerySetGetJob:auth.User", "rates"]
    )
    def test_jobs_go_by_path_label_or_name(self, name: str) -> None:
        with override_settings(ASYNC_CACHE={"JOBS": {name: {"ttl": 30}}}):
            assert get_settings().jobs[name] == {"ttl": 30.0}

    def test_a_section_of_another_app(self) -> None:
        with override_settings(ASYNC_CACHE={"EXTRA": {"x": 1}}):
            with pytest.raises(ConfigurationError, match="EXTRA"):
                get_settings()
            conf.register_section("EXTRA")
            try:
                assert get_settings().sections["EXTRA"] == {"x": 1}
            finally:
                conf._sections.discard("EXTRA")
                conf.reset()

    @pytest.mark.parametrize("name", ["CACHE", "JOBS", "lower", "no name"])
    def test_a_section_must_have_a_name_of_its_own(self, name: str) -> None:
        with pytest.raises(ConfigurationError):
            conf.register_section(name)


class TestMistakes:
    @pytest.mark.parametrize(
        ("setting", "named", "remedy"),
        [
            ([], "ASYNC_CACHE", "Write ASYNC_CACHE ="),
            ({"Dispatcher": "celery"}, "'Dispatcher'", "Did you mean 'DISPATCHER'?"),
            ({"TTL": 60}, "'TTL'", 'ASYNC_CACHE["DEFAULTS"]["ttl"]'),
            ({1: 2}, "unknown key 1", "Known are"),
            ({"DEFAULTS": {"time_to_live": 1}}, "'time_to_live'", "Known are: cache,"),
            ({"DEFAULTS": {"gracee": 1}}, "'gracee'", "Did you mean 'grace'?"),
            ({"DEFAULTS": 60}, 'ASYNC_CACHE["DEFAULTS"]', '{"ttl": 60}'),
            ({"JOBS": ["a.B"]}, 'ASYNC_CACHE["JOBS"]', '{"shop.jobs.Rates": {"ttl": 60}}'),
            ({"JOBS": {"a.B": {"tll": 1}}}, 'ASYNC_CACHE["JOBS"]["a.B"]', "Did you mean 'ttl'?"),
            ({"JOBS": {3: {}}}, "3", "dotted path"),
            ({"JOBS": {"a.B": {"ttl": "60"}}}, '["a.B"]["ttl"]: \'60\'', "timedelta"),
            ({"IO_TIMEOUT": 0}, 'ASYNC_CACHE["IO_TIMEOUT"]', "seconds as a number"),
            ({"IO_TIMEOUT": None}, 'ASYNC_CACHE["IO_TIMEOUT"]', "seconds as a number"),
            ({"QUEUE_SIZE": 0}, 'ASYNC_CACHE["QUEUE_SIZE"]', "1 or more"),
            ({"ENABLED": "no"}, 'ASYNC_CACHE["ENABLED"]', "True or False"),
            ({"DISPATCHER": "celry"}, "'celry'", "Did you mean 'celery'?"),
            ({"JOB_MODULES": "shop"}, 'ASYNC_CACHE["JOB_MODULES"]', 'Write ("shop.jobs",)'),
            ({"KEY_PREFIX": "a b"}, 'ASYNC_CACHE["KEY_PREFIX"]', "[A-Za-z0-9_.-]{1,40}"),
            ({"KEY_PREFIX": "x" * 41}, 'ASYNC_CACHE["KEY_PREFIX"]', "[A-Za-z0-9_.-]{1,40}"),
            ({"KEY_PREFIX": "a\n"}, 'ASYNC_CACHE["KEY_PREFIX"]', "[A-Za-z0-9_.-]{1,40}"),
        ],
    )
    def test_each_is_named_with_its_remedy(self, setting: Any, named: str, remedy: str) -> None:
        (problem,) = problems(setting)
        assert named in problem
        assert remedy in problem
        with override_settings(ASYNC_CACHE=setting), pytest.raises(ConfigurationError) as caught:
            get_settings()
        assert str(caught.value) == problem
        assert isinstance(caught.value, ImproperlyConfigured)

    def test_all_are_found_and_one_is_raised(self) -> None:
        setting = {"CACHEE": 1, "DEFAULTS": {"ttl": -1, "grace": True}}
        assert len(problems(setting)) == 3
        with (
            override_settings(ASYNC_CACHE=setting),
            pytest.raises(ConfigurationError, match=r"2 more: run `manage\.py check`"),
        ):
            get_settings()

    def test_what_is_right_still_holds_for_tools(self) -> None:
        with override_settings(ASYNC_CACHE={"CACHE": "here", "QUEUE_SIZE": -1}):
            settings = conf.current_or_partial()
        assert settings.cache == "here"
        assert settings.queue_size == 1000

    def test_containers_are_not_printed(self) -> None:
        (problem,) = problems({"DEFAULTS": {"ttl": {"password": "hunter2"}}})
        assert "hunter2" not in problem


class TestSeconds:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [(None, None), (0, 0.0), (60, 60.0), (0.5, 0.5), (timedelta(minutes=1), 60.0)],
    )
    def test_numbers_and_timedeltas(self, value: Any, expected: float | None) -> None:
        assert seconds(value, "ttl") == expected
        assert value is None or type(seconds(value, "ttl")) is float

    def test_minus_zero_is_zero(self) -> None:
        assert math.copysign(1, seconds(-0.0, "ttl")) == 1

    @pytest.mark.parametrize(
        "value",
        [True, False, "60", -1, -0.1, math.nan, math.inf, 10**400, timedelta(seconds=-1), [], b"1"],
    )
    def test_anything_else_is_refused_by_name(self, value: Any) -> None:
        with pytest.raises(ConfigurationError, match=r"^Rates\.ttl: "):
            seconds(value, "Rates.ttl")


class TestOptions:
    def test_every_option_has_a_default_that_it_accepts(self) -> None:
        assert OPTIONS.keys() == DEFAULTS.keys()
        assert clean_options("defaults", DEFAULTS) == DEFAULTS

    @pytest.mark.parametrize(
        ("name", "value", "expected"),
        [
            ("ttl", None, None),
            ("ttl", 0, 0.0),
            ("max_stale", timedelta(seconds=5), 5.0),
            ("wait", None, None),
            ("wait", 0, 0.0),
            ("negative", KeyError, (KeyError,)),
            ("negative", [KeyError, ValueError], (KeyError, ValueError)),
            ("jitter", 0, 0.0),
            ("early", 2, 2.0),
            ("early", timedelta(seconds=5), timedelta(seconds=5)),
            ("version", "2024.1", "2024.1"),
            ("version", 0, 0),
            ("vary", ["language", "timezone"], ("language", "timezone")),
            ("vary", ("shop.tenant",), ("shop.tenant",)),
            ("tags", {"b", "a"}, ("a", "b")),
            ("tags", ["a", "a"], ("a",)),
            ("max_keys", 10, 10),
            ("dispatcher", "shop.dispatch.Dispatcher", "shop.dispatch.Dispatcher"),
            ("task_options", {"priority": 3}, {"priority": 3}),
        ],
    )
    def test_accepted_and_put_in_final_form(self, name: str, value: Any, expected: Any) -> None:
        cleaned = clean_option("shop.Rates", name, value)
        assert cleaned == expected
        assert type(cleaned) is type(expected) or name == "task_options"

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("ttl", "60"),
            ("grace", None),
            ("fetch_on_miss", 1),
            ("fetch_timeout", 0),
            ("fetch_timeout", None),
            ("lease", 0),
            ("negative", "LookupError"),
            ("negative", (KeyboardInterrupt,)),
            ("negative", [KeyError()]),
            ("negative_ttl", None),
            ("jitter", 1),
            ("jitter", math.nan),
            ("jitter", True),
            ("early", math.inf),
            ("early", -1),
            ("early", timedelta(seconds=-1)),
            ("version", -1),
            ("version", True),
            ("version", "a:b"),
            ("vary", "language"),
            ("vary", ("",)),
            ("vary", ("no way",)),
            ("tags", "tag"),
            ("tags", (1,)),
            ("max_keys", 0),
            ("max_keys", 1.5),
            ("cache", ""),
            ("serializer", None),
            ("dispatcher", "clery"),
            ("queue", ""),
            ("task_options", []),
            ("task_options", {"retry": True}),
            ("task_options", {"queue": "slow"}),
        ],
    )
    def test_refused_by_place_and_name(self, name: str, value: Any) -> None:
        with pytest.raises(ConfigurationError) as caught:
            clean_option("shop.Rates", name, value)
        assert str(caught.value).startswith(f'shop.Rates["{name}"]: ')

    def test_all_problems_are_listed(self) -> None:
        found = check_options("shop.Rates", {"ttl": -1, "tll": 3, "grace": 1})
        assert [problem.kind for problem in found] == ["value", "unknown_option"]

    def test_the_given_mapping_is_not_shared(self) -> None:
        given = {"priority": 1}
        cleaned = clean_option("shop.Rates", "task_options", given)
        given["priority"] = 2
        assert cleaned == {"priority": 1}


class Plain:
    ttl = timedelta(seconds=3)
    grace = 3


class TestPrecedence:
    SETTING: ClassVar[dict[str, Any]] = {
        "DEFAULTS": {"ttl": 4, "grace": 4, "lease": 4, "wait": 4},
        "JOBS": {"shop.Rates": {"ttl": 1}},
    }

    def test_jobs_then_keyword_then_class_then_defaults(self) -> None:
        with override_settings(ASYNC_CACHE=self.SETTING):
            found = resolve_options(
                Plain(), "shop.Rates", {"ttl": 2, "lease": timedelta(seconds=2)}
            )
        chosen = {name: found[name] for name in ("ttl", "grace", "lease", "wait", "fetch_timeout")}
        assert chosen == {"ttl": 1, "lease": 2, "grace": 3, "wait": 4, "fetch_timeout": 30}

    def test_a_subclass_does_not_inherit_an_entry(self) -> None:
        with override_settings(ASYNC_CACHE=self.SETTING):
            assert resolve_options(Plain(), "shop.MoreRates", {})["ttl"] == 3

    def test_an_entry_for_one_model_wins_over_one_for_all(self) -> None:
        jobs = {
            "shop.Users": {"ttl": 1, "grace": 1},
            "shop.Users:auth.User": {"ttl": 2},
        }
        with override_settings(ASYNC_CACHE={"JOBS": jobs}):
            assert configured("shop.Users:auth.User") == {"ttl": 2, "grace": 1}
            assert configured("shop.Users:auth.Group") == {"ttl": 1, "grace": 1}
            assert configured("shop.Users") == {"ttl": 1, "grace": 1}
            assert configured("shop.Other:auth.User") == {}

    @pytest.mark.parametrize("keywords", [{"ttl": -1}, {"tll": 1}])
    def test_a_bad_keyword_names_the_job(self, keywords: Any) -> None:
        with pytest.raises(ConfigurationError, match=r"^shop\.Rates"):
            resolve_options(Plain(), "shop.Rates", keywords)

    def test_methods_are_kept(self) -> None:
        class Computed:
            def ttl(self, value: Any) -> float:
                return 5.0

        assert resolve_options(Computed(), "shop.Rates", {})["ttl"](None) == 5.0
