"""What ``manage.py check`` finds."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import celery
import django
import pytest
from celery import _state
from django.core import checks
from django.core.checks import CheckMessage
from django.test import modify_settings, override_settings

import async_cache.checks
from async_cache import conf
from async_cache.jobs import registry

LOCMEM = "django.core.cache.backends.locmem.LocMemCache"
DUMMY = "django.core.cache.backends.dummy.DummyCache"
FILE = "django.core.cache.backends.filebased.FileBasedCache"
DATABASE = "django.core.cache.backends.db.DatabaseCache"
REDIS = "django.core.cache.backends.redis.RedisCache"
DJANGO_REDIS = "django_redis.cache.RedisCache"
MEMCACHED = "django.core.cache.backends.memcached.PyMemcacheCache"

STRONG = "".join(map(chr, range(40, 120)))


def run(deploy: bool = False) -> list[CheckMessage]:
    found = checks.run_checks(tags=["async_cache"], include_deployment_checks=deploy)
    for message in found:
        assert message.hint, message
    return found


def of(number: str, deploy: bool = False) -> list[str]:
    """Return message and hint of each finding with that id."""
    return [f"{m.msg} {m.hint}" for m in run(deploy) if m.id == f"async_cache.{number}"]


def one(number: str, deploy: bool = False) -> str:
    (found,) = of(number, deploy)
    return found


def cache(backend: str, location: Any = "here", **options: Any) -> Any:
    config: dict[str, Any] = {"BACKEND": backend, "LOCATION": location}
    if options:
        config["OPTIONS"] = options
    return override_settings(CACHES={"default": config}, ASYNC_CACHE={"DISPATCHER": "thread"})


def setting(**values: Any) -> Any:
    return override_settings(ASYNC_CACHE=values)


@pytest.fixture(autouse=True)
def _no_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the jobs that other tests have made."""
    monkeypatch.setattr(registry, "_jobs", {})
    monkeypatch.setattr(registry, "_places", {})


@pytest.fixture
def jobs() -> Callable[..., type[Any]]:
    """Register jobs for one test; the registry holds nothing else."""

    def make(name: str, module: str = "tests.app.jobs", **options: Any) -> type[Any]:
        job = type(name.rpartition(".")[2], (), {"__module__": module, **options})
        registry.register(name, job)
        return job

    return make


@pytest.fixture
def celery_app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., celery.Celery]]:
    """Make a Celery app the current one for one test."""
    monkeypatch.setattr(vars(_state)["_tls"], "current_app", None)
    monkeypatch.setattr(_state, "default_app", None)
    apps: list[celery.Celery] = []

    def make(**config: Any) -> celery.Celery:
        app = celery.Celery("shop", changes={"broker_url": "redis://localhost:1/0", **config})
        apps.append(app)
        return app

    yield make
    for app in apps:
        app.close()


def test_a_sound_configuration_is_silent(
    celery_app: Callable[..., Any], jobs: Callable[..., type[Any]]
) -> None:
    celery_app()
    jobs("tests.app.jobs.Rates", ttl=60)
    config = {
        "BACKEND": DJANGO_REDIS,
        "LOCATION": "redis://localhost:1/1",
        "OPTIONS": {"SOCKET_TIMEOUT": 0.25, "SOCKET_CONNECT_TIMEOUT": 0.25},
    }
    given = {"CACHE": "default", "JOBS": {"tests.app.jobs.Rates": {"ttl": 30}}}
    with override_settings(CACHES={"default": config}, ASYNC_CACHE=given, SECRET_KEY=STRONG):
        assert run() == []


def test_ids_are_documented() -> None:
    folder = Path(async_cache.checks.__file__).parent
    source = "".join(path.read_text() for path in folder.glob("*.py"))
    used = set(re.findall(r'async_cache\.([EWI]\d{3})"', source))
    used |= set(re.findall(r'"(E\d{3})"', source))
    documented = set(re.findall(r"^([EWI]\d{3})  ", async_cache.checks.__doc__ or "", re.M))
    assert used == documented


class TestSetting:
    def test_wrong_type(self) -> None:
        with override_settings(ASYNC_CACHE=["x"]):
            assert "ASYNC_CACHE" in one("E001")
        with setting(JOBS={"a.B": 60}):
            assert 'ASYNC_CACHE["JOBS"]["a.B"]' in one("E001")

    def test_unknown_key(self) -> None:
        with setting(CACHEE="default"):
            assert "Did you mean 'CACHE'?" in one("E002")

    def test_bad_value(self) -> None:
        with setting(DEFAULTS={"ttl": "soon", "grace": -1}):
            assert len(of("E003")) == 2

    def test_unknown_option(self) -> None:
        with setting(JOBS={"a.B": {"tll": 1}}):
            assert "Did you mean 'ttl'?" in one("E004")

    @pytest.mark.parametrize(
        ("attribute", "meant"), [("tll", "ttl"), ("grce", "grace"), ("lifetime", "ttl")]
    )
    def test_attribute_like_an_option(
        self, jobs: Callable[..., type[Any]], attribute: str, meant: str
    ) -> None:
        jobs("tests.app.jobs.Rates", ttl=60, region="eu", fetch=len, **{attribute: 3})
        found = one("W014")
        assert attribute in found
        assert f"Did you mean {meant!r}?" in found

    @pytest.mark.parametrize(
        "given", [{"refresh_every": 5}, {"refresh_schedule": "* * * * *"}, {"keep_warm": 5}]
    )
    def test_a_schedule_that_nothing_acts_on(
        self, jobs: Callable[..., type[Any]], given: dict[str, Any]
    ) -> None:
        jobs("tests.app.jobs.Rates", ttl=60, fetch=len, **given)
        assert not of("W015")
        with modify_settings(INSTALLED_APPS={"remove": "async_cache.schedules"}):
            (name,) = given
            assert f"tests.app.jobs.Rates sets {name}, and" in one("W015")

    def test_section_of_an_app_that_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # The app of the tests' own settings has registered its section.
        monkeypatch.setattr(conf, "_sections", conf._sections - {"SCHEDULES"})
        with (
            modify_settings(INSTALLED_APPS={"remove": "async_cache.schedules"}),
            setting(SCHEDULES={}),
        ):
            assert '"async_cache.schedules"' in one("W010")
        with setting():
            assert not of("W010")

    @pytest.mark.parametrize(
        "given",
        [
            {"DEFAULTS": {"grace": 40 * 86400}},
            {"MAX_LIFETIME": 100_000, "JOBS": {"a.B": {"ttl": 20_000}}},
        ],
    )
    def test_longer_than_max_lifetime(self, given: Any) -> None:
        with setting(**given):
            assert "MAX_LIFETIME" in one("W011")

    def test_within_max_lifetime(self) -> None:
        with setting(DEFAULTS={"ttl": None, "grace": 86400}):
            assert not of("W011")


class TestCaches:
    def test_missing_alias(self, jobs: Callable[..., type[Any]]) -> None:
        jobs("tests.app.jobs.Rates", cache="slow")
        with setting(CACHE="defualt", JOBS={"a.B": {"cache": "fast"}}):
            found = of("E005")
        assert "Did you mean 'default'?" in found[0]
        assert 'ASYNC_CACHE["JOBS"]["a.B"]["cache"] is "fast"' in found[1]
        assert 'tests.app.jobs.Rates.cache is "slow"' in found[2]

    @pytest.mark.parametrize("backend", ["no.such.Backend", "async_cache.conf.get_settings"])
    def test_backend_that_does_not_load(self, backend: str) -> None:
        with cache(backend):
            assert 'CACHES["default"]' in one("E006")

    def test_dummy(self) -> None:
        with cache(DUMMY):
            assert "stores nothing" in one("W001")

    def test_local_memory(self) -> None:
        with cache(LOCMEM):
            assert "private to each process" in one("W002")

    def test_files(self, tmp_path: Path) -> None:
        with cache(FILE, str(tmp_path)):
            assert "cannot elect" in one("W003")

    @pytest.mark.parametrize(("mode", "count"), [(None, 1), ("DEFERRED", 1), ("IMMEDIATE", 0)])
    def test_database_on_sqlite(
        self, mode: str | None, count: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connection = django.db.connections["default"]
        if connection.vendor != "sqlite":
            pytest.skip("the test database is not SQLite")
        options = {**connection.settings_dict["OPTIONS"], "transaction_mode": mode}
        monkeypatch.setitem(connection.settings_dict, "OPTIONS", options)
        with cache(DATABASE, "table"):
            found = of("W004")
        assert len(found) == count
        assert all("IMMEDIATE" in text and "journal_mode=WAL" in text for text in found)

    @pytest.mark.parametrize(("options", "count"), [({}, 1), ({"MAX_ENTRIES": 100_000}, 0)])
    def test_entries_of_a_table(self, options: Any, count: int) -> None:
        with cache(DATABASE, "table", **options):
            assert len(of("W005")) == count

    @pytest.mark.parametrize(
        ("backend", "location", "options", "missing"),
        [
            (DJANGO_REDIS, "redis://h:1/1", {}, "SOCKET_CONNECT_TIMEOUT and SOCKET_TIMEOUT"),
            (DJANGO_REDIS, "redis://h:1/1", {"SOCKET_TIMEOUT": 1}, "SOCKET_CONNECT_TIMEOUT"),
            (REDIS, "redis://h:1/1", {}, "socket_connect_timeout and socket_timeout"),
            (REDIS, ["redis://h:1/1", "redis://g:1/1"], {}, "socket_timeout"),
            (MEMCACHED, "h:1", {}, "connect_timeout and timeout"),
        ],
    )
    def test_without_socket_timeouts(
        self, backend: str, location: Any, options: Any, missing: str
    ) -> None:
        with cache(backend, location, **options):
            assert f"does not set {missing}" in one("W006") or missing in one("W006")

    @pytest.mark.parametrize(
        ("backend", "location", "options"),
        [
            (DJANGO_REDIS, "redis://h:1/1", {"SOCKET_TIMEOUT": 1, "SOCKET_CONNECT_TIMEOUT": 1}),
            (
                DJANGO_REDIS,
                "redis://h:1/1",
                {"CONNECTION_POOL_KWARGS": {"socket_timeout": 1, "socket_connect_timeout": 1}},
            ),
            (REDIS, "redis://h:1/1?socket_timeout=1&socket_connect_timeout=1", {}),
            (MEMCACHED, "h:1", {"timeout": 1, "connect_timeout": 1}),
            (LOCMEM, "", {}),
        ],
    )
    def test_with_socket_timeouts(self, backend: str, location: str, options: Any) -> None:
        with cache(backend, location, **options):
            assert not of("W006")

    @pytest.mark.parametrize(("client", "count"), [("DefaultClient", 0), ("ShardClient", 1)])
    def test_hidden_outages(self, client: str, count: int) -> None:
        # Through its own connections async_cache sees an outage whatever django-redis hides.
        options = {"CLIENT_CLASS": f"django_redis.client.{client}", "IGNORE_EXCEPTIONS": True}
        with cache(DJANGO_REDIS, ["redis://localhost:1/0"], **options):
            assert len(of("W013")) == count

    def test_only_the_caches_in_use_count(self) -> None:
        caches = {"default": {"BACKEND": DUMMY}, "ours": {"BACKEND": LOCMEM}}
        with override_settings(CACHES=caches), setting(CACHE="ours"):
            assert not of("W001")
            assert of("W002")


class TestDispatchers:
    def test_path_that_does_not_import(self) -> None:
        with setting(DISPATCHER="shop.nowhere.Dispatcher"):
            assert '"shop.nowhere.Dispatcher"' in one("E008")

    @pytest.mark.skipif(django.VERSION >= (6, 0), reason="this Django has tasks")
    def test_tasks_need_django_6(self) -> None:
        with setting(JOBS={"a.B": {"dispatcher": "django_tasks"}}):
            assert "Upgrade to Django 6.0" in one("E008")

    def test_celery_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name == "celery" else find(name)
        )
        with setting():
            assert 'pip install "celery[redis]"' in one("E009")
        with setting(DISPATCHER="thread"):
            assert not of("E009")

    def test_no_app(self, celery_app: object) -> None:
        with setting():
            assert "<project>/celery.py" in one("W008")

    @pytest.mark.parametrize(
        ("accepted", "count"),
        [(["pickle"], 1), ([], 1), (["json"], 0), (["application/json", "pickle"], 0)],
    )
    def test_accepted_content(
        self, celery_app: Callable[..., Any], accepted: list[str], count: int
    ) -> None:
        celery_app(accept_content=accepted)
        with setting():
            assert len(of("E010")) == count

    def test_broker_without_its_client(
        self, celery_app: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        celery_app()
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name == "redis" else find(name)
        )
        with setting():
            assert 'pip install "celery[redis]"' in one("E011")

    def test_broker_in_memory(self, celery_app: Callable[..., Any]) -> None:
        celery_app(broker_url="memory://")
        with setting():
            assert "memory://" in one("W009")

    def test_eager(self, celery_app: Callable[..., Any]) -> None:
        celery_app(task_always_eager=True, broker_url="memory://")
        with setting():
            assert "eagerly" in one("I001")
            assert not of("W009")

    def test_a_job_that_uses_celery_counts(
        self, celery_app: Callable[..., Any], jobs: Callable[..., type[Any]]
    ) -> None:
        celery_app(accept_content=["pickle"])
        with setting(DISPATCHER="thread"):
            assert not of("E010")
            jobs("tests.app.jobs.Rates", dispatcher="celery")
            assert of("E010")

    def test_nothing_is_said_while_caching_is_off(self, celery_app: object) -> None:
        with setting(ENABLED=False):
            assert not of("W008")

    def test_celery_is_not_imported_where_no_job_uses_it(self) -> None:
        program = (
            "import sys, django\n"
            "from django.conf import settings\n"
            "settings.configure(INSTALLED_APPS=['async_cache'], SECRET_KEY='x',\n"
            "                   ASYNC_CACHE={'DISPATCHER': 'thread'})\n"
            "django.setup()\n"
            "from django.core.checks import run_checks\n"
            "assert run_checks(tags=['async_cache'], include_deployment_checks=True)\n"
            "assert 'celery' not in sys.modules\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=Path(__file__).parent.parent,
        )
        assert done.returncode == 0, done.stderr


class TestJobs:
    def test_two_of_one_name(self, jobs: Callable[..., type[Any]]) -> None:
        jobs("rates", module="tests.app.one")
        jobs("rates", module="tests.app.two")
        assert "tests.app.one.rates, tests.app.two.rates" in one("E007")

    def test_unknown_job(self, jobs: Callable[..., type[Any]]) -> None:
        jobs("tests.app.jobs.Rates")
        with setting(JOBS={"tests.app.jobs.Rate": {"ttl": 1}}):
            assert "Did you mean 'tests.app.jobs.Rates'?" in one("W007")

    def test_job_of_a_model(self, jobs: Callable[..., type[Any]]) -> None:
        jobs("async_cache.QuerySetGetJob", module="async_cache.jobs.queryset")
        with setting(JOBS={"async_cache.QuerySetGetJob:auth.User": {"ttl": 1}}):
            assert not of("W007")
        with setting(JOBS={"async_cache.QuerySetGetJob:auth.Usr": {"ttl": 1}}):
            assert "Did you mean 'auth.User'?" in one("W007")

    def test_bad_options_of_a_class(self, jobs: Callable[..., type[Any]]) -> None:
        jobs("tests.app.jobs.Rates", ttl=-1, vary="language")
        found = of("E003")
        assert 'tests.app.jobs.Rates["ttl"]: -1 is negative' in found[0]
        assert 'tests.app.jobs.Rates["vary"]' in found[1]

    def test_computed_options_are_fine(self, jobs: Callable[..., type[Any]]) -> None:
        jobs(
            "tests.app.jobs.Rates",
            ttl=lambda self, value: 3,
            tags=lambda self: ("a",),
            negative=property(lambda self: (LookupError,)),
        )
        assert not of("E003")

    def test_an_option_that_cannot_be_a_method(self, jobs: Callable[..., type[Any]]) -> None:
        jobs("tests.app.jobs.Rates", grace=lambda self: 3)
        assert 'tests.app.jobs.Rates["grace"]' in one("E003")

    def test_module_that_workers_may_not_import(self, jobs: Callable[..., type[Any]]) -> None:
        jobs("elsewhere.jobs.Rates", module="elsewhere.jobs")
        with setting():
            assert "JOB_MODULES" in one("W012")
        with setting(JOB_MODULES=["elsewhere"]):
            assert not of("W012")

    def test_serializers(self, jobs: Callable[..., type[Any]]) -> None:
        jobs("tests.app.jobs.Rates", serializer="jsn")
        with setting(DEFAULTS={"serializer": "no.such.Serializer"}):
            found = of("E012")
        assert 'ASYNC_CACHE["DEFAULTS"]["serializer"]' in found[0]
        assert "tests.app.jobs.Rates.serializer" in found[1]


class TestDeploy:
    @pytest.mark.parametrize("key", ["short", "a" * 60, "django-insecure-" + STRONG])
    def test_weak_key(self, key: str) -> None:
        with override_settings(SECRET_KEY=key, SECRET_KEY_FALLBACKS=[]):
            assert one("W101", deploy=True).startswith("SECRET_KEY is weak")
            assert not of("W101")

    def test_weak_fallback(self) -> None:
        with override_settings(SECRET_KEY=STRONG, SECRET_KEY_FALLBACKS=[STRONG, "weak"]):
            assert "SECRET_KEY_FALLBACKS[1]" in one("W101", deploy=True)

    def test_no_key_is_shown(self) -> None:
        with override_settings(SECRET_KEY="hunter2", SECRET_KEY_FALLBACKS=[]):
            assert "hunter2" not in one("W101", deploy=True)

    @pytest.mark.parametrize(
        ("backend", "count"), [(MEMCACHED, 1), (FILE, 1), (DATABASE, 1), (LOCMEM, 0), (DUMMY, 0)]
    )
    def test_backends_that_unpickle(self, backend: str, count: int, tmp_path: Path) -> None:
        with cache(backend, str(tmp_path) if backend == FILE else "h:1"):
            assert len(of("W102", deploy=True)) == count
            assert not of("W102")

    @pytest.mark.parametrize("backend", [REDIS, DJANGO_REDIS])
    def test_redis_is_read_raw(self, backend: str) -> None:
        with cache(backend, "redis://localhost:1/1"):
            assert not of("W102", deploy=True)

    @pytest.mark.parametrize(
        ("location", "options", "lacks"),
        [
            ("redis://localhost:6379/1", {}, ""),
            ("redis://127.0.0.1:6379/1", {}, ""),
            ("redis://[::1]:6379/1", {}, ""),
            ("unix:///run/redis.sock", {}, ""),
            ("redis://cache.lan:6379/1", {}, "without TLS and a password"),
            ("rediss://cache.lan:6379/1", {}, "without a password"),
            ("redis://:hunter2@cache.lan:6379/1", {}, "without TLS:"),
            ("rediss://:hunter2@cache.lan:6379/1", {}, ""),
            ("rediss://cache.lan:6379/1", {"PASSWORD": "hunter2"}, ""),
            (["redis://localhost:1/1", "redis://10.0.0.7:1/1"], {}, "without TLS and a password"),
            ("redis://localhost:1/1;redis://10.0.0.7:1/1", {}, "without TLS and a password"),
            ("rediss://cache.lan:1/1", {"CONNECTION_POOL_KWARGS": {"password": "hunter2"}}, ""),
            (
                "redis://:hunter2@cache.lan:1/1",
                {"CONNECTION_POOL_KWARGS": {"connection_class": "redis.connection.SSLConnection"}},
                "",
            ),
            ("redis://mymaster/1", {"SENTINELS": [("localhost", 1)]}, ""),
            ("redis://localhost/1", {"SENTINELS": [("s.lan", 1)]}, "without TLS and a password"),
            ("rediss://mymaster/1", {"SENTINELS": [("s.lan", 1)], "PASSWORD": "hunter2"}, ""),
        ],
    )
    def test_a_cache_that_others_can_reach(
        self, location: Any, options: dict[str, Any], lacks: str
    ) -> None:
        with cache(DJANGO_REDIS, location, **options):
            found = of("W103", deploy=True)
            assert not of("W103")
        assert [lacks in text for text in found] == ([True] if lacks else [])
        assert "hunter2" not in str(found)

    @pytest.mark.parametrize(
        ("location", "options", "lacks"),
        [
            ("redis://:hunter2@cache.lan:1/1", {}, "without TLS:"),
            ("rediss://cache.lan:1/1", {"password": "hunter2"}, ""),
            ("rediss://cache.lan:1/1", {"credential_provider": object()}, ""),
            ("redis://cache.lan:1/1", {"password": "hunter2"}, "without TLS:"),
        ],
    )
    def test_options_of_djangos_own_backend(
        self, location: str, options: dict[str, Any], lacks: str
    ) -> None:
        with cache(REDIS, location, **options):
            found = of("W103", deploy=True)
        assert [lacks in text for text in found] == ([True] if lacks else [])
        assert "hunter2" not in str(found)

    @pytest.mark.parametrize(
        ("location", "options", "lacks"),
        [
            ("127.0.0.1:11211", {}, ""),
            ("unix:/run/memcached.sock", {}, ""),
            (["localhost:1", "cache.lan:1"], {}, "without TLS and a password"),
            ("[::1]:11211", {}, ""),
            ("cache.lan:11211", {"tls_context": object()}, "without a password"),
        ],
    )
    def test_a_memcached_that_others_can_reach(
        self, location: Any, options: dict[str, Any], lacks: str
    ) -> None:
        with cache(MEMCACHED, location, **options):
            found = of("W103", deploy=True)
        assert [lacks in text for text in found] == ([True] if lacks else [])

    @pytest.mark.parametrize(
        ("url", "lacks"),
        [
            ("redis://localhost:6379/0", ""),
            ("redis+socket:///run/redis.sock", ""),
            ("sentinel://a.lan:1;sentinel://b.lan:1", "without TLS and a password"),
            ("sentinel://:hunter2@a.lan:1;sentinel://:hunter2@b.lan:1", "without TLS:"),
            ("amqp://broker.lan", "without TLS and a password"),
            ("amqps://shop:hunter2@broker.lan", ""),
            ("amqp://", ""),
            ("redis://broker.lan:6379/0", "without TLS and a password"),
            ("rediss://:hunter2@broker.lan:6379/0?ssl_cert_reqs=required", ""),
            ("amqp://guest:guest@broker.lan//", "without TLS and a password"),
            ("amqp://shop:hunter2@broker.lan//", "without TLS:"),
            ("amqp://guest:guest@127.0.0.1//", ""),
            ("filesystem://", ""),
        ],
    )
    def test_a_broker_that_others_can_reach(
        self, celery_app: Callable[..., celery.Celery], url: str, lacks: str
    ) -> None:
        celery_app(broker_url=url)
        with setting(DISPATCHER="celery"):
            found = of("W105", deploy=True)
            assert not of("W105")
        assert [lacks in text for text in found] == ([True] if lacks else [])
        assert "hunter2" not in str(found)
        with setting(DISPATCHER="thread"):
            assert not of("W105", deploy=True)

    def test_a_broker_that_is_read_elsewhere(self, celery_app: Callable[..., Any]) -> None:
        celery_app(broker_read_url="redis://broker.lan:1/0")
        with setting(DISPATCHER="celery"):
            assert "without TLS and a password" in one("W105", deploy=True)

    def test_certificates_stand_for_a_password(self, celery_app: Callable[..., Any]) -> None:
        celery_app(broker_url="amqps://broker.lan//", broker_login_method="EXTERNAL")
        with setting(DISPATCHER="celery"):
            assert not of("W105", deploy=True)

    def test_a_broker_whose_library_is_missing(self, celery_app: Callable[..., Any]) -> None:
        celery_app(broker_url="nowhere://:hunter2@broker.lan")
        with setting(DISPATCHER="celery"):
            assert not of("W105", deploy=True)
            assert "No such transport: nowhere" in one("E011")
            assert "hunter2" not in one("E011")

    @pytest.mark.parametrize(
        ("backend", "pickles", "said"),
        [
            ("redis://localhost:1/0", True, []),
            ("async-cache-db", True, []),
            ("redis://results.lan:1/0", False, ["without TLS and a password"]),
            ("redis://results.lan:1/0", True, ["without TLS and a password", "run code"]),
            ("rediss://:hunter2@results.lan:1/0", True, []),
        ],
    )
    def test_results_that_others_can_reach(
        self, celery_app: Callable[..., Any], backend: str, pickles: bool, said: list[str]
    ) -> None:
        accept = ["json", "pickle"] if pickles else ["json"]
        celery_app(result_backend=backend, result_accept_content=accept)
        with setting(DISPATCHER="celery"):
            found = of("W106", deploy=True)
            assert not of("W106")
        assert bool(found) == bool(said)
        assert all(text in found[0] for text in said)
        assert "hunter2" not in str(found)

    def test_workers_that_unpickle(self, celery_app: Callable[..., celery.Celery]) -> None:
        celery_app(broker_url="redis://localhost:1/0", accept_content=["json", "pickle"])
        with setting(DISPATCHER="celery"):
            assert "run code" in one("W104", deploy=True)
            assert not of("W104")

    def test_a_wrong_setting_does_not_break_the_checks(self) -> None:
        with cache(MEMCACHED, "h:1"), setting(QUEUE_SIZE=-1):
            assert conf.find_problems()
            assert run(deploy=True)
